//! Settings from a file and from the environment, and into a file.

use std::env;
use std::process::Command;
use std::time::Duration;

use latebind::net::TcpDialer;
use latebind::{
    Backoff, Breaker, BreakerChoice, Config, ConfigError, DialRule, IdleOrder, OnDialFailure, Pool,
};

const SECOND: Duration = Duration::from_secs(1);

/// The file in the documentation of `Config`.
fn documented() -> String {
    let source = include_str!("../../src/config.rs");
    let (_, file) = source.split_once("```toml\n").expect("there is an example");
    let (file, _) = file.split_once("/// ```\n").expect("it has an end");
    file.replace("/// ", "")
}

fn build(config: Config) -> Result<Pool<TcpDialer>, ConfigError> {
    Pool::builder(TcpDialer::new("localhost", 1)).settings(config).build()
}

#[test]
fn a_file_says_what_differs_from_the_defaults() {
    let config: Config = toml::from_str(&documented()).unwrap();
    let mut expected = Config::default();
    expected.max_open = 20;
    expected.get_timeout = 2 * SECOND;
    expected.max_lifetime = Duration::MAX;
    expected.dial_rule = DialRule::Eager;
    expected.breaker = BreakerChoice::On(Breaker::new(5, SECOND));
    expected.on_dial_failure =
        OnDialFailure::Retry(Backoff::new(Duration::from_millis(10), SECOND));
    assert_eq!(config, expected);
    assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
}

#[test]
fn settings_in_force_survive_a_file() {
    let mut config: Config = toml::from_str(&documented()).unwrap();
    config.max_idle = Some(7);
    config.max_dialing = Some(6);
    config.max_waiting = Some(5);
    config.max_uses = Some(1000);
    config.idle_order = IdleOrder::Fifo;
    config.lifetime_jitter = Some(SECOND / 4);
    config.check_after = Duration::ZERO;
    config.leak_after = Duration::new(90, 1);
    config.prune_every = SECOND / 2;
    config.retire_on_panic = false;
    for config in [config, Config::default()] {
        let in_force = build(config).unwrap().settings();
        let file = toml::to_string(&in_force).unwrap();
        assert_eq!(toml::from_str::<Config>(&file).unwrap(), config, "{file}");
        let json = serde_json::to_string(&in_force).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config, "{json}");
    }
    let file = toml::to_string(&config).unwrap();
    for line in ["max_lifetime = \"unlimited\"", "leak_after = \"1m 30s 1ns\"", "max_idle = 7"] {
        assert!(file.lines().any(|it| it == line), "no line {line:?} in\n{file}");
    }
}

#[test]
fn a_file_with_a_mistake_is_refused_by_what_is_wrong() {
    for (file, why) in [
        ("max_opne = 20", "unknown field `max_opne`"),
        ("bypass = \"1s\"", "unknown field `bypass`"),
        ("breaker = { on = { failure = 3 } }", "unknown field `failure`"),
        ("on_dial_failure = { retry = { frist = \"1s\" } }", "unknown field `frist`"),
        ("get_timeout = 30", "expected a string"),
        ("get_timeout = \"30\"", "time unit needed"),
        ("get_timeout = \"soon\"", "\"soon\" is not a time such as \"30s\" or \"unlimited\""),
        ("dial_rule = \"lazy\"", "expected `adaptive` or `eager`"),
        ("max_open = -1", "expected u32"),
        ("breaker = { on = { failures = 0 } }", "expected a nonzero u32"),
        ("breaker = { on = { probe_every = \"0s\" } }", "must be at least 1ms"),
        ("on_dial_failure = { retry = { first = \"10us\" } }", "must be at least 1ms"),
    ] {
        let error = toml::from_str::<Config>(file).unwrap_err().to_string();
        assert!(error.contains(why), "{file}: {error}");
    }
}

#[test]
fn a_pool_refuses_a_file_out_of_bounds_as_its_builder_does() {
    for (file, error) in [
        ("max_open = 0", ConfigError::TooSmall { setting: "max_open", value: 0, least: 1 }),
        ("check_timeout = \"0s\"", ConfigError::ZeroTimeout { setting: "check_timeout" }),
        (
            "max_open = 5\nmax_idle = 8",
            ConfigError::Contradiction {
                setting: "max_idle",
                value: 8,
                bound: "max_open",
                limit: 5,
            },
        ),
    ] {
        let config: Config = toml::from_str(file).unwrap();
        assert_eq!(build(config).unwrap_err(), error);
        let pool = Pool::new(TcpDialer::new("localhost", 1));
        assert_eq!(pool.reconfigure().settings(config).apply().unwrap_err(), error);
        assert_eq!(pool.settings(), Config::default(), "nothing is changed");
    }
}

/// A backoff that falls from its first pause would dial in a loop.
#[test]
fn a_backoff_whose_longest_pause_is_below_its_first_keeps_the_first() {
    let file = "on_dial_failure = { retry = { first = \"2s\", most = \"1s\" } }";
    let config: Config = toml::from_str(file).unwrap();
    let OnDialFailure::Retry(backoff) = config.on_dial_failure else { panic!("{config:?}") };
    assert_eq!((backoff.first(), backoff.most()), (2 * SECOND, 2 * SECOND));
}

/// Not a test: a program whose settings are in its environment, for the tests below.
#[test]
#[ignore = "a program that other tests start"]
fn program_with_settings_in_its_environment() {
    match Config::from_env("ORDERS_POOL_").and_then(build) {
        Ok(pool) => println!("<{}>", serde_json::to_string(&pool.settings()).unwrap()),
        Err(error) => println!("<{error}>"),
    }
}

/// The output of that program.
fn with_environment(variables: &[(&str, &str)]) -> String {
    let program = Command::new(env::current_exe().unwrap())
        .args(["--exact", "program_with_settings_in_its_environment", "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8(program.stdout).unwrap();
    let (_, said) = said.split_once('<').expect("it says something");
    said.split_once(">\n").expect("it says it in one line").0.to_owned()
}

#[test]
fn a_pool_has_the_settings_of_its_environment() {
    let said = with_environment(&[
        ("ORDERS_POOL_MAX_OPEN", "20"),
        ("ORDERS_POOL_MAX_IDLE", "0"),
        ("ORDERS_POOL_GET_TIMEOUT", "1m 30s"),
        ("ORDERS_POOL_MAX_LIFETIME", "unlimited"),
        ("ORDERS_POOL_LIFETIME_JITTER", "0s"),
        ("ORDERS_POOL_RETIRE_ON_PANIC", "false"),
        ("ORDERS_POOL_DIAL_RULE", "eager"),
        ("ORDERS_POOL_BREAKER", "on: 5, 1s"),
        ("ORDERS_POOL_ON_DIAL_FAILURE", "retry:20ms"),
        ("ORDERS_POOL_PORT", "tcp://10.0.0.1:80"),
        ("MAX_WAITING", "3"),
    ]);
    let config: Config = serde_json::from_str(&said).unwrap();
    let mut expected = Config::default();
    expected.max_open = 20;
    expected.max_idle = Some(0);
    expected.get_timeout = 90 * SECOND;
    expected.max_lifetime = Duration::MAX;
    expected.lifetime_jitter = Some(Duration::ZERO);
    expected.retire_on_panic = false;
    expected.dial_rule = DialRule::Eager;
    expected.breaker = BreakerChoice::On(Breaker::new(5, SECOND));
    expected.on_dial_failure =
        OnDialFailure::Retry(Backoff::new(Duration::from_millis(20), SECOND / 10));
    assert_eq!(config, expected);

    let config: Config =
        serde_json::from_str(&with_environment(&[("ORDERS_POOL_BREAKER", "off")])).unwrap();
    assert_eq!(config.breaker, BreakerChoice::Off);
}

#[test]
fn a_variable_that_is_refused_is_named_with_its_value_and_the_bound() {
    for (variables, error) in [
        (
            &[("ORDERS_POOL_MAX_OPEN", "many")][..],
            "ORDERS_POOL_MAX_OPEN is \"many\": it must be a whole number from 0 to 4294967295",
        ),
        (
            &[("ORDERS_POOL_MAX_OPEN", "0")],
            "ORDERS_POOL_MAX_OPEN is \"0\": max_open is 0; it must be at least 1",
        ),
        (
            &[("ORDERS_POOL_MAX_IDLE", "8"), ("ORDERS_POOL_MAX_OPEN", "5")],
            "ORDERS_POOL_MAX_IDLE is \"8\": max_idle (8) exceeds max_open (5)",
        ),
        (
            &[("ORDERS_POOL_DIAL_TIMEOUT", "0s"), ("ORDERS_POOL_MAX_OPEN", "5")],
            "ORDERS_POOL_DIAL_TIMEOUT is \"0s\": dial_timeout is 0 s; it must be longer \
             (Duration::MAX means no limit)",
        ),
        (
            &[("ORDERS_POOL_GET_TIMEOUT", "30")],
            "ORDERS_POOL_GET_TIMEOUT is \"30\": \"30\" is not a time such as \"30s\" or \"unlimited\": \
             time unit needed, for example 30sec or 30ms",
        ),
        (
            &[("ORDERS_POOL_RETIRE_ON_PANIC", "yes")],
            "ORDERS_POOL_RETIRE_ON_PANIC is \"yes\": it must be true or false",
        ),
        (
            &[("ORDERS_POOL_DIAL_RULE", "lazy")],
            "ORDERS_POOL_DIAL_RULE is \"lazy\": unknown variant `lazy`, expected `adaptive` or `eager`",
        ),
        (
            &[("ORDERS_POOL_BREAKER", "off:3")],
            "ORDERS_POOL_BREAKER is \"off:3\": nothing may follow the name",
        ),
        (
            &[("ORDERS_POOL_BREAKER", "on:0,1s")],
            "ORDERS_POOL_BREAKER is \"on:0,1s\": invalid value: integer `0`, expected a nonzero u32",
        ),
        (
            &[("ORDERS_POOL_BREAKER", "on:3,1s,4")],
            "ORDERS_POOL_BREAKER is \"on:3,1s,4\": invalid length 3, expected 2 elements in sequence",
        ),
        (
            &[("ORDERS_POOL_ON_DIAL_FAILURE", "retry:1us")],
            "ORDERS_POOL_ON_DIAL_FAILURE is \"retry:1us\": a pause is 1µs; it must be at least 1ms",
        ),
    ] {
        assert_eq!(with_environment(variables), error);
    }
}
