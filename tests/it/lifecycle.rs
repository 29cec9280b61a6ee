//! The demo of the README, run as it stands there.

use std::process::Command;

#[test]
fn the_demo_of_a_whole_life_runs_and_its_ledgers_agree() {
    let output = Command::new("examples/lifecycle.sh")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("ORDER_SERVICE", env!("CARGO_BIN_EXE_order-service"))
        .output()
        .unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{errors}");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.last(), Some(&"the ledgers agreed at every step"), "{told}");
    let returned = lines.iter().find(|line| line.starts_with("returned")).unwrap();
    assert!(returned.contains("REFUNDED") && returned.ends_with("inventory sold 0"), "{told}");
    assert!(told.contains("payment keeps   132.25"), "{told}");
}
