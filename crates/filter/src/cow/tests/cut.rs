//! I3: the images of several devices are one consistent cut.
//!
//! Writers number their writes and send them to the devices in turn, each only after the one before was acknowledged.
//! An image set that holds write *n* of a writer must hold, on every device, the last of its writes up to *n*.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_block::*;
use bowline_device::Device;
use bowline_io::{Queues, QueuesConfig};

use super::support::*;
use crate::cow::*;

const DEVICES: usize = 4;
const WRITERS: u64 = 6;

async fn write_for_ever(writer: u64, devices: Vec<Arc<Device>>, stop: Arc<AtomicBool>) {
    let mut number = 1u64;
    while !stop.load(Ordering::Relaxed) {
        let device = &devices[number as usize % DEVICES];
        // Writers share granules: two of them in each.
        let range = ByteRange::new(writer * 2048, 512);
        let mut data = [0; 512];
        data[..8].copy_from_slice(&number.to_le_bytes());
        perform(&**device, Op::Write, range, &data).await.unwrap();
        number += 1;
        // Anywhere else, so that there is always something to copy.
        let range = ByteRange::new(64 * 1024 + (number * 7 % 200) * 4096, 4096);
        perform(&**device, Op::Write, range, &[number as u8; 4096]).await.unwrap();
        yield_now().await;
    }
}

/// The last number of each device that a writer's writes left.
fn numbers(images: &[&dyn Store], writer: u64) -> Vec<u64> {
    let at = ByteRange::new(writer * 2048, 512);
    images
        .iter()
        .map(|image| u64::from_le_bytes(read(*image, at).unwrap()[..8].try_into().unwrap()))
        .collect()
}

/// Whether the set is a cut.
fn check(numbers: &[u64]) -> std::result::Result<(), String> {
    let newest = *numbers.iter().max().unwrap();
    for (device, &have) in numbers.iter().enumerate() {
        let step = DEVICES as u64;
        let back = (newest + step - device as u64) % step;
        let want = newest.saturating_sub(back);
        let want = if want % step == device as u64 && want > 0 { want } else { 0 };
        if have != want {
            return Err(format!(
                "I3: device {device} has write {have}, not {want}, beside {newest}: {numbers:?}"
            ));
        }
    }
    Ok(())
}

struct Load {
    devices: Vec<Arc<Device>>,
    stop: Arc<AtomicBool>,
    queues: Option<Queues>,
}

impl Load {
    fn start() -> Self {
        let devices: Vec<_> = (0..DEVICES)
            .map(|at| Device::new(format!("d{at}"), TestStore::new(MIB, BlockSize::B512, Pace::Mixed)))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let queues = Queues::start(QueuesConfig { count: 2, engine: bowline_io::probe().0 }).unwrap();
        for writer in 0..WRITERS {
            let (devices, stop) = (devices.clone(), stop.clone());
            queues.nth(writer as usize).unwrap().spawn(move || write_for_ever(writer, devices, stop));
        }
        Self { devices, stop, queues: Some(queues) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.queues.take();
    }
}

#[test]
fn images_of_four_devices_are_one_instant() {
    let load = Load::start();
    let mut earlier: Option<Snapshot> = None;
    for round in 0..300 {
        let origins: Vec<_> = (0..DEVICES)
            .map(|at| {
                let history = earlier.as_ref().map(|one| one.devices()[at].history().clone());
                Origin::new(load.devices[at].clone(), history)
            })
            .collect();
        let snapshot =
            take(&format!("s{round}"), &origins, &memory(16 * MIB), Arc::new(NoEvents), limits()).unwrap();
        let images: Vec<_> = snapshot.devices().iter().map(|one| &**one.image() as &dyn Store).collect();
        for writer in 0..WRITERS {
            check(&numbers(&images, writer)).unwrap();
        }
        if let Some(earlier) = earlier.replace(snapshot) {
            earlier.remove(FREEZE).unwrap();
        }
    }
    assert_eq!(load.devices.iter().map(|device| device.stats().errors).sum::<u64>(), 0, "I6");
}

#[test]
fn images_taken_one_after_another_are_noticed() {
    let load = Load::start();
    let noticed = (0..60).any(|round| {
        let one_by_one: Vec<_> = load
            .devices
            .iter()
            .map(|device| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                take_one(&format!("s{round}"), device, None)
            })
            .collect();
        let images: Vec<_> = one_by_one.iter().map(|one| image(one) as &dyn Store).collect();
        let wrong = (0..WRITERS).any(|writer| check(&numbers(&images, writer)).is_err());
        one_by_one.iter().for_each(|one| one.remove(FREEZE).unwrap());
        wrong
    });
    assert!(noticed, "the checker must notice a cut that is none");
}
