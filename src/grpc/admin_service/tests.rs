use super::*;

#[test]
fn this_machine_is_told_from_others() {
    for here in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
        assert!(Peer(here.parse().unwrap()).is_here(), "{here}");
    }
    for elsewhere in ["10.0.0.1", "0.0.0.0", "fe80::1", "::ffff:10.0.0.1"] {
        assert!(!Peer(elsewhere.parse().unwrap()).is_here(), "{elsewhere}");
    }
}
