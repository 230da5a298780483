use super::*;

#[test]
fn stores_read_back() {
    for text in [
        "mem",
        "/var/diff",
        "./mem",
        "./ranges:x",
        "ranges:/dev/sda@0+1M",
        "ranges:/dev/a@b@512+4K,/dev/c@1G+1536",
    ] {
        assert_eq!(text.parse::<StoreSpec>().unwrap().to_string(), text);
    }
}

#[test]
fn a_range_without_a_path_is_of_the_path_before() {
    let spec: StoreSpec = "ranges:/dev/sda@0+1M,2M+1M,/dev/sdb@4K+8K".parse().unwrap();
    assert_eq!(spec.to_string(), "ranges:/dev/sda@0+1M,/dev/sda@2M+1M,/dev/sdb@4K+8K");
}

/// I8: what is wrong with a store is named.
#[test]
fn bad_stores_are_refused() {
    for (text, part) in [
        ("", "it is empty"),
        ("mem:1G", "--limit"),
        ("a\0", "zero byte"),
        ("ranges:", "has no @OFFSET"),
        ("ranges:/dev/sda", "has no @OFFSET"),
        ("ranges:@0+1M", "the path of"),
        ("ranges:/dev/sda@0", "has no +LENGTH"),
        ("ranges:/dev/sda@0+", "is not a size"),
        ("ranges:/dev/sda@x+1", "is not a size"),
        ("ranges:/dev/sda@0+0", "is 0"),
        ("ranges:/dev/sda@18446744073709551615+1", "64 bits"),
        ("ranges:/dev/sda@0+1M,", "has no +LENGTH"),
    ] {
        let error = text.parse::<StoreSpec>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("not a store"), "{text}: {error}");
    }
    let many = format!("ranges:/d@0+1{}", ",0+1".repeat(RANGES_MAX));
    assert!(many.parse::<StoreSpec>().unwrap_err().to_string().contains("4096"));
}

#[test]
fn paths_are_changed_in_every_range() {
    let spec: StoreSpec = "ranges:a@0+1,2+3".parse().unwrap();
    let changed = spec.with_paths(|path| Ok::<_, ()>(Path::new("/x").join(path))).unwrap();
    assert_eq!(changed.to_string(), "ranges:/x/a@0+1,/x/a@2+3");
}
