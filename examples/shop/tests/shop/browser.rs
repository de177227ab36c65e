//! A real browser, without a window: Chromium, by its own protocol over two pipes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::find;

/// How long the browser may take for anything, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// A browser with one page.
pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    sent: u64,
    session: Value,
    complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `None` if there is none here.
    pub(crate) fn start() -> Option<Self> {
        let names = ["chromium", "chromium-headless-shell", "google-chrome"];
        let program = find(&names)?;
        let profile = tempfile::tempdir().unwrap();
        // It reads commands from descriptor 3 and writes messages to 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (tell, messages) = channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                let Ok(()) = tell.send(serde_json::from_slice(&message).unwrap()) else { return };
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            commands,
            messages,
            sent: 0,
            session: Value::Null,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).unwrap();
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session =
            browser.call("Target.attachToTarget", attach).unwrap()["sessionId"].take();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).unwrap();
        }
        Some(browser)
    }

    /// Goes to a page.
    pub(crate) fn open(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url })).unwrap();
        assert_eq!(answer["errorText"], Value::Null);
    }

    /// The value of an expression on the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        self.evaluate(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until an expression is true, on this page or the next.
    pub(crate) fn wait_for(&mut self, condition: &str) {
        // The page waits by itself. It forgets to if it is left meanwhile, so it is asked again.
        let look = format!(
            "new Promise(done => {{
                const end = Date.now() + 1000;
                const look = () => {{
                    let met = false;
                    try {{ met = {condition}; }} catch {{ }}
                    met || Date.now() > end ? done(met) : setTimeout(look, 10);
                }};
                look();
            }})"
        );
        let deadline = Instant::now() + PATIENCE;
        while !self.evaluate(&look).is_ok_and(|met| met == true) {
            assert!(Instant::now() < deadline, "{condition}: not in time");
        }
    }

    /// Clicks in the middle of an element, as a mouse does.
    pub(crate) fn click(&mut self, element: &str) {
        let middle = format!(
            "(() => {{
                const box = document.querySelector(`{element}`).getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"
        );
        let middle = self.value(&middle);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event).unwrap();
        }
    }

    /// The page's complaints: exceptions, and files that it could not load.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let parameters =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", parameters)?;
        match answer["exceptionDetails"].take() {
            Value::Null => Ok(answer["result"]["value"].take()),
            exception => Err(exception),
        }
    }

    /// Sends a command, and waits for its answer.
    fn call(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.sent += 1;
        let mut command = json!({ "id": self.sent, "method": method, "params": parameters });
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.commands.write_all(command.to_string().as_bytes()).unwrap();
        self.commands.write_all(&[0]).unwrap();
        loop {
            let mut message = self.messages.recv_timeout(PATIENCE).expect("the browser answers");
            if message["id"] == self.sent {
                return match message["error"].take() {
                    Value::Null => Ok(message["result"].take()),
                    error => Err(error),
                };
            }
            let is_complaint = match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Log.entryAdded") => message["params"]["entry"]["level"] == "error",
                _ => false,
            };
            if is_complaint {
                self.complaints.push(message["params"].to_string());
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
