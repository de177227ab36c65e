//! The command line.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use lexopt::Arg::Long;
use lexopt::Arg::Value;
use lexopt::ValueExt;

/// The text of `--help`.
pub(crate) const HELP: &str = "\
Asks URLs in turn, from many threads, over few connections.

    http_client [OPTIONS] [URL]...

Without a URL it asks two servers in this process, and checks their books against its own.

    --concurrency N   threads that ask (16)
    --requests M      requests in all (10000)
    --max-open N      connections to each server (6)
    --timeout S       seconds for each request, its body included (30)
    --redirects N     redirects to follow (0)
    --proxy URL       a proxy to go through
    --ca FILE         whom to trust, in PEM, instead of the authorities of Mozilla's list
";

/// The command line, read.
pub(crate) struct Arguments {
    pub(crate) urls: Vec<Uri>,
    pub(crate) concurrency: usize,
    pub(crate) requests: u64,
    pub(crate) max_open: u32,
    pub(crate) timeout: Duration,
    pub(crate) redirects: u32,
    pub(crate) proxy: Option<Uri>,
    pub(crate) authorities: Option<PathBuf>,
}

impl Arguments {
    /// Reads the arguments of a program; none if help is asked for.
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Option<Self>, lexopt::Error> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut read = Self {
            urls: Vec::new(),
            concurrency: 16,
            requests: 10_000,
            max_open: 6,
            timeout: Duration::from_secs(30),
            redirects: 0,
            proxy: None,
            authorities: None,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Value(url) => read.urls.push(url.parse()?),
                Long("concurrency") => read.concurrency = parser.value()?.parse()?,
                Long("requests") => read.requests = parser.value()?.parse()?,
                Long("max-open") => read.max_open = parser.value()?.parse()?,
                Long("timeout") => read.timeout = parser.value()?.parse_with(seconds)?,
                Long("redirects") => read.redirects = parser.value()?.parse()?,
                Long("proxy") => read.proxy = Some(parser.value()?.parse()?),
                Long("ca") => read.authorities = Some(parser.value()?.into()),
                Long("help") | lexopt::Arg::Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        if read.concurrency == 0 {
            return Err("--concurrency is at least 1".into());
        }
        Ok(Some(read))
    }
}

fn seconds(text: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}
