//! `heddle-fuzz [TARGET] [--seconds N] [--seed N] [--input FILE]`; the library says what it does.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks by printing")]

mod options;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heddle_fuzz::session::Session;
use heddle_fuzz::targets::Target;
use options::Options;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Executions so far, for the watch; u64::MAX when nothing runs.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

/// An execution that takes this long is stuck. Ordinary ones take microseconds.
const STUCK_SECONDS: u64 = 20;

/// The clock is read once in so many executions.
const EXECUTIONS_PER_LOOK: u64 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("heddle-fuzz: {message}");
            return ExitCode::from(2);
        }
    };
    watch();
    let result = match &options.input {
        Some(path) => replay(&options.targets, path),
        None => options.targets.iter().try_for_each(|target| attack(target, &options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("heddle-fuzz: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one target until its time is over.
fn attack(target: &Target, options: &Options) -> Result<(), String> {
    let recorder = Recorder::create(target)?;
    let mut session = Session::new(target, options.seed, stored_corpus(target)?);
    print!("{:<10} seed {:<20} ", target.name, options.seed);
    let start = now();
    let mut elapsed = Duration::ZERO;
    // The corpus runs whole, however short the time.
    while elapsed < options.time || session.execution_count() < session.corpus_count() as u64 {
        for _ in 0..EXECUTIONS_PER_LOOK {
            recorder.record(session.advance())?;
            PROGRESS.store(session.execution_count(), Ordering::Relaxed);
            execute(&mut session, &recorder)?;
        }
        elapsed = start.elapsed();
    }
    println!(
        "{:>9} executions, {:>7.0}/s, {} seeds, at most {} KiB allocated",
        session.execution_count(),
        session.execution_count() as f64 / elapsed.as_secs_f64(),
        session.corpus_count(),
        session.allocated_bytes_highest().div_ceil(1024),
    );
    recorder.discard();
    Ok(())
}

fn execute(session: &mut Session<'_>, recorder: &Recorder) -> Result<(), String> {
    session.execute(|| ALLOCATOR.stats().bytes_allocated).map_err(|over| {
        format!(
            "an input of {} bytes made the decoder allocate {} bytes, at most {} are allowed\n{}",
            session.input().len(),
            over.allocated_bytes,
            over.limit_bytes,
            recorder.advice
        )
    })
}

/// Runs one recorded input.
fn replay(targets: &[Target], path: &Path) -> Result<(), String> {
    let input = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for target in targets {
        let before = ALLOCATOR.stats().bytes_allocated;
        (target.run)(&input);
        let allocated = ALLOCATOR.stats().bytes_allocated - before;
        println!("{}: {} bytes of input, {allocated} bytes allocated", target.name, input.len());
    }
    Ok(())
}

/// Inputs kept from earlier findings: `fuzz/corpus/<target>/`.
fn stored_corpus(target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let describe = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(describe)? {
        paths.push(entry.map_err(describe)?.path());
    }
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).map_err(describe)).collect()
}

/// Keeps the current input in a file, written before each execution: a decoder that overflows the
/// stack or is killed leaves no chance to write it afterwards.
struct Recorder {
    file: File,
    path: PathBuf,
    advice: String,
}

impl Recorder {
    fn create(target: &Target) -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz-inputs");
        let path = folder.join(target.name);
        let describe = |error: std::io::Error| format!("{}: {error}", path.display());
        std::fs::create_dir_all(&folder).map_err(describe)?;
        // Left over from a run that ended badly: somebody may still want it.
        if path.exists() {
            std::fs::rename(&path, path.with_extension("earlier")).map_err(describe)?;
        }
        let file = File::create(&path).map_err(describe)?;
        let name = target.name;
        let advice = format!(
            "the input is in target/fuzz-inputs/{name}; run it alone with\n  \
             cargo xtask fuzz {name} --input target/fuzz-inputs/{name}\n\
             and keep it in fuzz/corpus/{name}/ when the decoder is mended"
        );
        let shown = advice.clone();
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            report(info);
            eprintln!("heddle-fuzz: {shown}");
        }));
        Ok(Self { file, path, advice })
    }

    fn record(&self, input: &[u8]) -> Result<(), String> {
        self.file
            .set_len(input.len() as u64)
            .and_then(|()| self.file.write_all_at(input, 0))
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn discard(self) {
        // The next run truncates what cannot be removed now.
        _ = std::fs::remove_file(&self.path);
        _ = std::panic::take_hook();
    }
}

/// Ends the process when one execution hangs.
#[expect(clippy::disallowed_methods, reason = "the watch must run while a decoder loops for ever")]
fn watch() {
    std::thread::spawn(|| {
        let mut last = PROGRESS.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(Duration::from_secs(STUCK_SECONDS));
            let current = PROGRESS.load(Ordering::Relaxed);
            if current == last {
                eprintln!(
                    "heddle-fuzz: one execution takes more than {STUCK_SECONDS} s; its input is \
                     the newest file in target/fuzz-inputs"
                );
                std::process::exit(1);
            }
            last = current;
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "a run lasts for a given wall time")]
fn now() -> Instant {
    Instant::now()
}
