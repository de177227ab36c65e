//! The reading of the kernel's texts about backlogs, odd ones included.

use crate::backlog_rules::bsd;
use crate::backlog_rules::linux;
use crate::backlog_rules::linux_asks;
use crate::backlog_rules::netstat;
use crate::backlog_rules::winsock_asks;

/// The rule for kernels before 4.1, which keep the backlog in 16 bits, is for them only (`TCP-05`).
#[test]
fn somaxconn_is_capped_only_on_kernels_that_would_wrap_it_round() {
    let table = [
        ("4096\n", "6.18.44", 4096),
        ("  4096 7\nrest", "6.18.44", 4096),
        ("65535\n", "3.16.0", 65_535),
        ("65536\n", "3.16.0", 65_535),
        ("70000", "4.0.9", 65_535),
        ("70000", "4.1.0", 70_000),
        ("70000", "4.1-rc1", 70_000),
        ("70000", "5.10.0-foo", 70_000),
        ("70000", "10.0", 70_000),
        ("196602", "4.0", 65_535),
        ("262144", "2.6.32-754.el6", 65_535),
        ("99999999", "6.1.0", 99_999_999),
        ("2147483647", "6.1.0", i32::MAX.unsigned_abs()),
        ("4294967296", "6.1.0", i32::MAX.unsigned_abs()),
        ("99999999999999999999", "6.1.0", i32::MAX.unsigned_abs()),
        ("99999999999999999999", "4.0.0", 65_535),
    ];
    for (somaxconn, release, expected) in table {
        assert_eq!(linux(Some(somaxconn), Some(release)), expected, "{somaxconn:?} on {release}");
    }
}

/// A text that cannot be read counts as the kernel's own default, not std's 128 (`TCP-05`, golang/go#79002).
#[test]
fn an_unreadable_somaxconn_is_the_kernels_default() {
    for odd in [
        None,
        Some(""),
        Some("\n"),
        Some("abc"),
        Some("0"),
        Some("-1"),
        Some("+7"),
        Some(" \n 8 x\0"),
    ] {
        let expected = if odd == Some(" \n 8 x\0") { 8 } else { 4096 };
        assert_eq!(linux(odd, Some("5.4.0")), expected, "{odd:?}");
    }
    assert_eq!(linux(None, Some("5.3.18")), 128);
}

/// A kernel that cuts down by itself is asked for the most there is; one that would wrap it round
/// is not (`TCP-05`).
#[test]
fn no_kernel_is_asked_for_more_than_it_can_keep() {
    for somaxconn in [None, Some("70000"), Some("17")] {
        for release in ["4.1.0", "6.18.44"] {
            assert_eq!(linux_asks(somaxconn, Some(release)), i32::MAX.unsigned_abs());
        }
        for release in [Some("4.0.9"), Some("odd"), None] {
            assert_eq!(linux_asks(somaxconn, release), linux(somaxconn, release));
        }
    }
}

/// 65535 is right on old and new kernels alike.
#[test]
fn an_unreadable_release_counts_as_an_old_kernel() {
    for release in [None, Some(""), Some("\n"), Some("6"), Some("six.one"), Some("99999999999.1")] {
        assert_eq!(linux(Some("70000"), release), 65_535, "{release:?}");
        assert_eq!(linux(None, release), 128, "{release:?}");
    }
}

#[test]
fn a_sysctl_is_taken_between_1_and_65535() {
    let table =
        [(None, 128), (Some(-1), 128), (Some(0), 128), (Some(1), 1), (Some(70_000), 65_535)];
    for (sysctl, expected) in table {
        assert_eq!(bsd(sysctl), expected, "{sysctl:?}");
    }
}

/// A plain number is cut down to 200 there, however large.
#[test]
fn winsock_is_asked_for_more_than_200_by_a_negative_number() {
    let table = [(1, 1), (200, 200), (201, -201), (65_535, -65_535), (u32::MAX, -65_535)];
    for (backlog, expected) in table {
        assert_eq!(winsock_asks(backlog), expected, "{backlog}");
    }
}

#[test]
fn counters_are_found_by_name_wherever_they_stand() {
    let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\n\
                IpExt: InNoRoutes\nIpExt: 4\n";
    assert_eq!(netstat(text, "ListenOverflows"), Some(22));
    assert_eq!(netstat(text, "ListenDrops"), Some(333));
    assert_eq!(netstat(text, "InNoRoutes"), Some(4));
    for cut in ["", "TcpExt: ListenDrops\n", "TcpExt: ListenDrops\nTcpExt:\n"] {
        assert_eq!(netstat(cut, "ListenDrops"), None, "{cut:?}");
    }
}
