use super::*;

fn log(times: &[(u64, u64)]) -> WriteLog {
    let timed = |&(sent, acknowledged): &(u64, u64)| Timed {
        sent: Duration::from_millis(sent),
        acknowledged: Duration::from_millis(acknowledged),
    };
    WriteLog { blocks: vec![BlockIndex(0); times.len()], times: times.iter().map(timed).collect() }
}

#[test]
fn the_slowest_write_is_among_those_under_way() {
    let log = log(&[(0, 90), (100, 110), (110, 140), (150, 155), (160, 200)]);
    let slowest =
        |from, until| log.slowest(Duration::from_millis(from), Duration::from_millis(until)).as_millis();
    assert_eq!(slowest(120, 130), 30);
    assert_eq!(slowest(105, 152), 30);
    assert_eq!(slowest(152, 159), 5);
    assert_eq!(slowest(156, 159), 0);
    assert_eq!(slowest(0, 1000), 90);
}

#[test]
fn rates_and_medians() {
    let log = log(&[(0, 10), (10, 12), (12, 500), (500, 501)]);
    assert_eq!(log.rate(Duration::ZERO, Duration::from_millis(100)), 20);
    assert_eq!(log.rate(Duration::ZERO, Duration::ZERO), 0);
    assert_eq!(log.median(WriteNumber(3)), Duration::from_millis(10));
    assert_eq!(WriteLog::default().median(WriteNumber(3)), Duration::ZERO);
}

#[test]
fn most_writes_are_hot_and_some_go_anywhere() {
    let mut noise = Noise::new(7);
    let mut counts = vec![0_u32; 1200];
    for _ in 0..48_000 {
        counts[choose(&mut noise, 1200) as usize] += 1;
    }
    let hot: u32 = counts.chunks(200).map(|zone| zone[..50].iter().sum::<u32>()).sum();
    assert!((46_000..48_000).contains(&hot), "{hot}");
    assert!(counts.chunks(200).all(|zone| zone[50..].iter().any(|&count| count > 0)));
    // Too few places for zones.
    assert!((0..100).all(|_| choose(&mut noise, 3) < 3));
}
