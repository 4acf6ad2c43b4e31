//! A program in a terminal, driven by keys: tmux with a server of its own.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::until;

/// Ends with the test.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// Starts `command` of a shell.
    pub fn start(width: u32, height: u32, command: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { socket: format!("corestub-test-{}-{count}", std::process::id()) };
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &width, "-y", &height, command]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        let out = tmux.args(["-L", &self.socket, "-f", "/dev/null"]).args(args).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits for a text on the screen.
    #[track_caller]
    pub fn shown(&self, wanted: &str) {
        until(&format!("{wanted:?} on the screen"), || self.screen().contains(wanted));
    }

    /// Single keys, by tmux's names.
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// A line and Enter.
    pub fn line(&self, text: &str) {
        self.keys(&[text, "Enter"]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
