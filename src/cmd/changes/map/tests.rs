use super::*;

fn changes(size: u64, extents: &[(u64, u64)]) -> Changes {
    Changes { size, ..crate::cmd::changes::walk::tests::page(extents, &[]) }
}

fn drawn(changes: &Changes, screen: Screen) -> String {
    let mut text = Vec::new();
    draw(changes, &mut Output::new(&mut text, false, screen)).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_small_device_is_one_character_a_block() {
    let map = drawn(&changes(10 * 4096, &[(4096, 8192), (9 * 4096, 4096)]), Screen::PLAIN);
    let lines: Vec<&str> = map.lines().collect();
    assert_eq!(lines[0], "disk: 12K of 40K changed since s1, in 2 extents; one character is 4K");
    assert_eq!(lines[1], "| ██      █|");
    assert_eq!(lines.len(), 3, "{map}");
}

/// What is drawn is as wide as the terminal, and no wider.
#[test]
fn the_picture_is_as_wide_as_the_screen() {
    for screen in [Screen::PLAIN, Screen { width: 100, ..Screen::PLAIN }] {
        let map = drawn(&changes(1 << 30, &[]), screen);
        assert_eq!(map.lines().nth(1).unwrap().chars().count(), screen.width);
    }
}

/// A change must show, however large the device; and the picture never outgrows the screen.
#[test]
fn a_change_shows_on_a_device_of_any_size() {
    for size in [1, 4095, 4096, 1 << 30, (64 << 40) + 512, u64::MAX] {
        for width in [1, 80, 1000] {
            let last = size.saturating_sub(1) / 4096 * 4096;
            let changes = changes(size, &[(last, size - last)]);
            let map = drawn(&changes, Screen { width, ..Screen::PLAIN });
            let lines: Vec<&str> = map.lines().collect();
            assert!(lines.len() <= ROWS_MAX + 2, "{size} {width}: {} lines", lines.len());
            let last = lines[lines.len() - 2].trim_end_matches('|');
            assert!(last.ends_with(|c| SHADES[1..].contains(&c)), "{size} {width}: {map}");
        }
    }
    let none = drawn(&changes(1 << 30, &[]), Screen::PLAIN);
    assert!(none.lines().nth(1).unwrap().trim_matches('|').chars().all(|c| c == ' '), "{none}");
}

#[test]
fn colours_only_on_a_terminal() {
    let some = changes(1 << 20, &[(0, 4096)]);
    assert!(!drawn(&some, Screen::PLAIN).contains('\x1b'));
    let coloured = drawn(&some, Screen { width: 80, colour: true, terminal: true });
    assert!(coloured.contains("\x1b[38;5;196m█\x1b[38;5;238m█"), "{coloured}");
    assert!(coloured.lines().skip(1).all(|line| line.contains("\x1b[0m")), "{coloured}");
}

/// I8: an answer that makes no sense draws something and does not panic.
#[test]
fn a_senseless_answer_draws_something() {
    let mut odd = changes(4096, &[(u64::MAX, u64::MAX), (1 << 40, 5), (0, 0)]);
    odd.granularity = 0;
    drawn(&odd, Screen::PLAIN);
    odd.size = 0;
    drawn(&odd, Screen::PLAIN);
}
