//! Telling the user that an import waits for the server, and for what.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use heddle_client::ClientError;
use indicatif::ProgressBar;

use crate::output::shortened;

/// Characters of a refusal that fit behind a progress bar.
const NOTE_WIDTH: usize = 60;

/// Shows refusals on the progress bar, or on standard error where nobody sees the bar.
pub(super) struct Waiting {
    bar: ProgressBar,
    /// Kinds of refusals that standard error has told already.
    told: RefCell<BTreeSet<String>>,
}

impl Waiting {
    pub(super) fn on(bar: &ProgressBar) -> Self {
        Self { bar: bar.clone(), told: RefCell::default() }
    }

    /// Rows were refused and are sent again; `patience` is how long without any success.
    pub(super) fn waits_for(&self, error: &ClientError, patience: Duration) {
        if !self.bar.is_hidden() {
            let note = shortened(&error.to_string(), NOTE_WIDTH);
            self.bar.set_message(format!("  waiting: {note}"));
            return;
        }
        let kind = error.code().map_or_else(|| "no answer".to_owned(), |code| code.to_string());
        if self.told.borrow_mut().insert(kind) {
            let seconds = patience.as_secs();
            eprintln!("heddle: waiting: {error}; trying again, up to {seconds} s without success");
        }
    }

    /// A batch was acknowledged.
    pub(super) fn goes_on(&self) {
        if !self.bar.message().is_empty() {
            self.bar.set_message("");
        }
    }
}
