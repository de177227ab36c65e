//! Settings from variables of the environment.

use std::env;

use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer,
    VariantAccess, Visitor,
};

use crate::config::{Config, ConfigError};

impl Config {
    /// The settings that the environment has, each in the variable with its name in capitals after
    /// `prefix`; the others have their defaults. Needs feature `serde`.
    ///
    /// | variable, for the prefix `ORDERS_POOL_` | holds, for example |
    /// | --- | --- |
    /// | `ORDERS_POOL_MAX_OPEN` and other numbers | `20` |
    /// | `ORDERS_POOL_GET_TIMEOUT` and other times | `2s`, `1m 30s`, `unlimited` |
    /// | `ORDERS_POOL_RETIRE_ON_PANIC` | `true`, `false` |
    /// | `ORDERS_POOL_DIAL_RULE` | `adaptive`, `eager` |
    /// | `ORDERS_POOL_BREAKER` | `by_default`, `off`, `on:5,1s` (five failures, a probe each second) |
    /// | `ORDERS_POOL_ON_DIAL_FAILURE` | `await_return`, `fail`, `retry:10ms,1s` (the first and the longest pause) |
    ///
    /// Other variables with that prefix are ignored, as Kubernetes for one sets variables such as
    /// `ORDERS_POOL_PORT` by itself. So a misspelt name changes nothing:
    /// [`Pool::settings`](crate::Pool::settings) tells what is in force.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Variable`] names the first variable that cannot be read, or that breaks a bound, with
    /// what it holds and what it may hold.
    ///
    /// # Examples
    ///
    /// ```
    /// # let dialer = latebind::net::TcpDialer::new("localhost", 80);
    /// use latebind::{Config, Pool};
    ///
    /// let pool = Pool::builder(dialer).settings(Config::from_env("ORDERS_POOL_")?).build()?;
    /// # assert_eq!(pool.settings(), Config::default());
    /// # Ok::<(), latebind::ConfigError>(())
    /// ```
    pub fn from_env(prefix: &str) -> Result<Self, ConfigError> {
        let variable = |setting: &str| format!("{prefix}{}", setting.to_uppercase());
        let refusal =
            |(setting, value): &(&str, String), why: &dyn ToString| ConfigError::Variable {
                variable: variable(setting),
                value: value.clone(),
                why: why.to_string(),
            };
        let value = |setting: &'static str| {
            let value = env::var_os(variable(setting))?;
            Some((setting, value.to_string_lossy().into_owned()))
        };
        let held: Vec<_> = names().iter().copied().filter_map(value).collect();
        // One by one at first, to know which of them is refused.
        for one in &held {
            read(std::slice::from_ref(one)).map_err(|error| refusal(one, &error))?;
        }
        let config = read(&held).expect("each of them can be read");
        config.check().map_err(|error| {
            let culprit = held.iter().find(|(setting, _)| refused_setting(&error) == Some(setting));
            culprit.map_or_else(|| error.clone(), |culprit| refusal(culprit, &error))
        })
    }
}

fn refused_setting(error: &ConfigError) -> Option<&'static str> {
    match error {
        ConfigError::Contradiction { setting, .. }
        | ConfigError::TooSmall { setting, .. }
        | ConfigError::ZeroTimeout { setting } => Some(setting),
        ConfigError::QuotaInUse | ConfigError::Variable { .. } => None,
    }
}

/// The names of the settings.
fn names() -> &'static [&'static str] {
    let mut names: &[_] = &[];
    Config::deserialize(Names(&mut names)).expect_err("it only looks at the names");
    names
}

/// The settings with these values, and others by default.
fn read(held: &[(&'static str, String)]) -> Result<Config, Error> {
    let held = held.iter().map(|(setting, value)| (*setting, Value(value)));
    Config::deserialize(MapDeserializer::new(held))
}

/// Learns the names of a structure's fields.
struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The value of a variable, or a part of it.
#[derive(Clone, Copy)]
struct Value<'a>(&'a str);

impl<'de> IntoDeserializer<'de> for Value<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.0)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = self.0.parse().map_err(|_| {
            Error::custom(format_args!("it must be a whole number from 0 to {}", u32::MAX))
        })?;
        visitor.visit_u32(number)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let truth = self.0.parse().map_err(|_| Error::custom("it must be true or false"))?;
        visitor.visit_bool(truth)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    /// The fields in their order, with commas between them.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let fields = self.0.split(',').map(|field| Value(field.trim()));
        // An empty text has no field, and an empty field is refused as what it is.
        let fields = fields.filter(|_| !self.0.trim().is_empty());
        let mut fields = SeqDeserializer::new(fields);
        let value = visitor.visit_seq(&mut fields)?;
        fields.end()?;
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The name of a variant, and after a colon what it holds.
impl<'de> EnumAccess<'de> for Value<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let (name, content) = self.0.split_once(':').unwrap_or((self.0, ""));
        Ok((seed.deserialize(Value(name.trim()))?, Value(content)))
    }
}

impl<'de> VariantAccess<'de> for Value<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::custom("nothing may follow the name")) }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }
}
