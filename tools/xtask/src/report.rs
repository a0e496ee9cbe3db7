//! The list of gates with their times that closes a verification.

use std::time::Duration;

/// How one gate ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// The gate did not run; the text says why and what would make it run.
    Skipped(String),
    Failed(String),
}

/// What has run so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<(&'static str, Duration, Outcome)>,
}

impl Report {
    pub(crate) fn add(&mut self, gate: &'static str, time: Duration, outcome: Outcome) {
        self.rows.push((gate, time, outcome));
    }

    pub(crate) fn failed_count(&self) -> usize {
        self.rows.iter().filter(|(_, _, outcome)| matches!(outcome, Outcome::Failed(_))).count()
    }

    /// One line per gate that ran, then one line with the verdict and the whole time.
    pub(crate) fn summary(&self, gate_count: usize) -> String {
        let mut text = String::new();
        let mut total = Duration::ZERO;
        for (gate, time, outcome) in &self.rows {
            total += *time;
            let (word, note) = match outcome {
                Outcome::Passed => ("ok", ""),
                Outcome::Skipped(note) => ("skipped", note.as_str()),
                Outcome::Failed(note) => ("FAILED", note.as_str()),
            };
            let line = format!("  {word:<8}{gate:<9}{:>7.1} s  {note}", time.as_secs_f64());
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let skipped = gate_count - self.rows.len();
        let verdict = match (self.failed_count(), skipped) {
            (0, _) => "verify: all gates passed".to_owned(),
            (failed, 0) => format!("verify: {failed} of {gate_count} gates failed"),
            (failed, rest) => format!("verify: {failed} gate failed, {rest} not run"),
        };
        text.push_str(&format!("{verdict} in {:.1} s\n", total.as_secs_f64()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_gate_is_counted_and_the_rest_is_named_as_not_run() {
        let mut report = Report::default();
        report.add("format", Duration::from_millis(1200), Outcome::Passed);
        report.add("tidy", Duration::from_millis(300), Outcome::Failed("2 findings".into()));
        let text = report.summary(8);
        assert_eq!(report.failed_count(), 1);
        assert!(text.contains("FAILED  tidy         0.3 s  2 findings"), "{text}");
        assert!(text.ends_with("verify: 1 gate failed, 6 not run in 1.5 s\n"), "{text}");
    }

    #[test]
    fn a_skipped_gate_is_no_failure_but_is_shown_with_its_reason() {
        let mut report = Report::default();
        report.add("deny", Duration::ZERO, Outcome::Skipped("install it".into()));
        assert_eq!(report.failed_count(), 0);
        assert!(report.summary(1).contains("skipped deny"));
        assert!(report.summary(1).contains("install it"));
    }
}
