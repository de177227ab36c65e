//! The balance sheet: that it adds up only where it does.

use std::process::ExitCode;

use instruments::balance::Balance;
use instruments::total;

/// Whether a sheet fails.
fn fails(enter: impl FnOnce(&mut Balance)) -> bool {
    let mut balance = Balance::default();
    enter(&mut balance);
    // An exit code can be compared with nothing but by its text.
    format!("{:?}", balance.close()) == format!("{:?}", ExitCode::FAILURE)
}

#[test]
fn equal_counts_add_up() {
    assert!(!fails(|balance| balance.compare("both", 7, 7)));
    assert!(!fails(|balance| balance.limit("at the limit", 7, 7)));
    assert!(!fails(|balance| balance.expect(true, "no fault")));
}

#[test]
fn a_difference_of_two_counts_fails_the_sheet() {
    assert!(fails(|balance| balance.compare("too few", 6, 7)));
    assert!(fails(|balance| balance.compare("too many", 8, 7)));
    assert!(fails(|balance| balance.limit("above the limit", 8, 7)));
    assert!(fails(|balance| balance.expect(false, "a fault")));
}

#[test]
fn a_server_may_have_more_where_the_program_cannot_know_and_never_less() {
    assert!(!fails(|balance| balance.compare_with("one in doubt", 8, 7, 1)));
    assert!(fails(|balance| balance.compare_with("two more", 9, 7, 1)));
    assert!(fails(|balance| balance.compare_with("one less", 6, 7, 1)));
}

#[test]
fn a_metric_is_summed_for_one_pool_over_its_other_labels() {
    let told = "# TYPE latebind_closed_total counter\n\
                latebind_closed_total{pool=\"jobs\",reason=\"broken\"} 2\n\
                latebind_closed_total{pool=\"jobs\",reason=\"expired\"} 3\n\
                latebind_closed_total{pool=\"others\",reason=\"broken\"} 40\n\
                latebind_closed_total_of_others{pool=\"jobs\"} 500\n";
    assert_eq!(total(told, "latebind_closed_total", "jobs"), 5.0);
}
