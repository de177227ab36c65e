//! Times as text, as in a file of settings.

use std::time::Duration;

/// The text for `Duration::MAX`.
const UNLIMITED: &str = "unlimited";

fn to_text(span: Duration) -> String {
    if span == Duration::MAX {
        UNLIMITED.to_owned()
    } else {
        humantime::format_duration(span).to_string()
    }
}

fn from_text<E: serde::de::Error>(text: &str) -> Result<Duration, E> {
    if text == UNLIMITED {
        return Ok(Duration::MAX);
    }
    humantime::parse_duration(text).map_err(|error| {
        E::custom(format_args!("{text:?} is not a time such as \"30s\" or {UNLIMITED:?}: {error}"))
    })
}

/// A time.
pub(crate) mod span {
    use super::{Duration, from_text, to_text};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_text(*span))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from_text(&String::deserialize(from)?)
    }
}

/// A time that may be left out.
pub(crate) mod some_span {
    use super::{Duration, span};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => span::serialize(span, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        span::deserialize(from).map(Some)
    }
}
