//! Freeze and thaw: the only moments in which a stack changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_block::{Altitude, ByteRange, Error, ErrorKind, Filter, Result, Store};

use crate::device::{Device, FilterId};
use crate::level::{Level, NewFilter};
use crate::sync::lock;

/// A device that is frozen: no request is inside, none gets in. Dropping it thaws the device.
pub struct Frozen {
    device: Arc<Device>,
}

/// Freezes the devices, all at one instant, in their fixed order. Either all are frozen or none is.
///
/// # Errors
/// *Timeout*, naming the device, when requests are still inside after `limit`, or somebody else keeps it frozen.
/// *Gone* when one was removed.
pub fn freeze_all(devices: &[Arc<Device>], limit: Duration) -> Result<Vec<Frozen>> {
    let deadline = Instant::now() + limit;
    let mut ordered: Vec<_> = devices.to_vec();
    ordered.sort_by_key(|device| device.order);
    ordered.dedup_by_key(|device| device.order);
    // First close every gate, then wait: the devices drain side by side.
    let frozen: Vec<Frozen> =
        ordered.iter().map(|device| Frozen::begin(device, deadline)).collect::<Result<_>>()?;
    for one in &frozen {
        let device = &one.device;
        if !device.gate.drain_until(deadline) {
            let why = format!("{} requests did not end within {limit:?}", device.gate.in_flight());
            return Err(Error::new(ErrorKind::Timeout, why).device(device.name()).op("freeze"));
        }
        if device.is_gone() {
            return Err(Error::new(ErrorKind::Gone, "the device was removed").device(device.name()));
        }
    }
    Ok(frozen)
}

impl Frozen {
    fn begin(device: &Arc<Device>, deadline: Instant) -> Result<Self> {
        loop {
            let mut held = lock(&device.freezer);
            if !*held {
                *held = true;
                device.gate.close();
                return Ok(Self { device: device.clone() });
            }
            drop(held);
            if Instant::now() >= deadline {
                let why = "somebody else keeps it frozen";
                return Err(Error::new(ErrorKind::Timeout, why).device(device.name()).op("freeze"));
            }
            pause();
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Puts a filter into the stack.
    ///
    /// # Errors
    /// *Exists* when altitude and range are taken by another; *out of range* when the range ends beyond the device;
    /// *invalid* when it is not whole blocks, because a request cut at its borders must still be.
    pub fn attach(
        &self,
        filter: Arc<dyn Filter>,
        altitude: Altitude,
        range: Option<ByteRange>,
    ) -> Result<FilterId> {
        let top = self.device.top.load_full();
        let whole = top.geometry().whole();
        let own = range.unwrap_or(whole);
        if own.is_empty() || !whole.contains(own) {
            return Err(self.error(ErrorKind::OutOfRange, format!("range {own} is not within {whole}")));
        }
        let block = top.geometry().block_size.bytes();
        if !own.is_aligned_to(block) {
            let why = format!("range {own} is not whole blocks of {block} bytes");
            return Err(self.error(ErrorKind::Invalid, why));
        }
        for other in top.filters().filter(|other| other.altitude == altitude) {
            if other.range.unwrap_or(whole).overlaps(own) {
                let why = format!("altitude {} is taken there by filter {}", altitude.0, other.id);
                return Err(self.error(ErrorKind::Exists, why));
            }
        }
        let new = NewFilter { id: FilterId::next(), filter, altitude, range };
        self.device.top.store(top.with(&new));
        Ok(new.id)
    }

    /// Takes a filter out of the stack.
    ///
    /// # Errors
    /// *Not found* when it is not attached, or not any more.
    pub fn detach(&self, id: FilterId) -> Result<()> {
        let top = self.device.top.load_full();
        let Some(filter) = top.filters().find(|level| level.id == id).map(|level| level.filter.clone())
        else {
            return Err(self.error(ErrorKind::NotFound, format!("filter {id} is not attached")));
        };
        self.device.top.store(top.without(id));
        filter.detached();
        Ok(())
    }

    /// Changes the size of the store.
    ///
    /// # Errors
    /// What the store says.
    pub fn resize(&self, size: u64) -> Result<()> {
        self.device.top.load_full().resize(size).map_err(|error| error.device(self.device.name()))
    }

    /// Ends the device: filters are told, the store is closed, requests answer *gone* from now on.
    pub fn remove(self) {
        let top = self.device.top.load_full();
        self.device.set_gone();
        top.filters().for_each(|level| level.filter.detached());
        let store: Arc<dyn Store> = top.bottom().clone();
        self.device.top.store(Arc::new(Level::Bottom(Arc::new(crate::gone::GoneStore(store.geometry())))));
        store.close();
    }

    fn error(&self, kind: ErrorKind, why: String) -> Error {
        Error::new(kind, why).device(self.device.name())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // In this order: whoever freezes the device next must not have the gate opened under them.
        self.device.gate.open();
        *lock(&self.device.freezer) = false;
    }
}

#[cfg(not(feature = "shuttle"))]
fn pause() {
    std::thread::sleep(Duration::from_micros(200));
}

#[cfg(feature = "shuttle")]
fn pause() {
    shuttle::thread::yield_now();
}
