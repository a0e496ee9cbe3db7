//! `heddle disk-test`: a node on a disk that fills up, and on one that fails, for real.
//!
//! Each scenario puts ext4 on a loop device on a file in a small tmpfs. A file beside the node's
//! data fills the file system; a file beside the image fills the memory under it, so that writes
//! which ext4 had promised room for fail in the device. Needs root, loop devices and mkfs.ext4.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use heddle_client::{ClientError, Collection, Object, PutMode};
use heddle_types::{ErrorCode, FatalReason, ObjectId};

use super::{BATCH, COLLECTION, Test, Write};
use crate::failure::Failure;
use crate::node_process::NodeProcess;
use crate::output::grouped;
use crate::session::block_on;

/// Both scenarios, by name.
pub(crate) const SCENARIOS: [&str; 2] = ["full_disk", "failing_disk"];
/// Flags of the node: two segments fit beside some data, and nothing is checkpointed unasked.
pub(crate) const NODE_FLAGS: [&str; 6] = [
    "--wal-segment-bytes",
    "32MiB",
    "--checkpoint-log-bytes",
    "256MiB",
    "--checkpoint-interval-s",
    "600",
];
const MIB: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 300 * MIB;
/// Room that a filler leaves.
const SLACK_BYTES: u64 = MIB;
/// Longest time until a disk is full, a node has ended or writes go on.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is missing on this machine, if anything.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("loop devices".to_owned());
    }
    let tools = ["mkfs.ext4", "e2fsck", "mount", "umount"];
    let is_there = |tool: &&str| Command::new(tool).arg("-V").output().is_ok();
    tools.iter().find(|tool| !is_there(tool)).map(|tool| (*tool).to_owned())
}

fn call(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new(program).args(arguments).output()?;
    // e2fsck says with 1 that it mended something.
    let is_mended = program == "e2fsck" && output.status.code() == Some(1);
    if output.status.success() || is_mended {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Failure::failed(format!("{program} {}: {}", arguments.join(" "), text.trim())))
}

/// ext4 on a loop device on a file in a tmpfs. Unmounted when it is dropped.
pub(crate) struct LoopDisk {
    memory: PathBuf,
    mount: PathBuf,
}

impl LoopDisk {
    pub(crate) fn new(folder: &Path) -> Result<Self, Failure> {
        let disk = Self { memory: folder.join("memory"), mount: folder.join("disk") };
        for path in [&disk.memory, &disk.mount] {
            std::fs::create_dir_all(path).map_err(|error| Failure::file(path, error))?;
        }
        let size = format!("size={}", IMAGE_BYTES + 16 * MIB);
        call("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &text(&disk.memory)])?;
        let image = disk.image();
        let file = std::fs::File::create(&image).map_err(|error| Failure::file(&image, error))?;
        file.set_len(IMAGE_BYTES)?;
        call("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)])?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.memory.join("image")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.mount.join("node")
    }

    fn mount(&self) -> Result<(), Failure> {
        call("mount", &["-o", "loop", &text(&self.image()), &text(&self.mount)])
    }

    /// Takes all room of the file system but a little.
    fn fill(&self) -> Result<(), Failure> {
        fill(&self.mount)
    }

    /// Takes all memory under the device but a little.
    fn fill_memory(&self) -> Result<(), Failure> {
        fill(&self.memory)
    }

    fn free(&self) -> Result<(), Failure> {
        let path = self.mount.join("filler");
        std::fs::remove_file(&path).map_err(|error| Failure::file(&path, error))
    }

    /// Gives the device its memory back and mounts the file system anew.
    fn repair(&self) -> Result<(), Failure> {
        call("umount", &[&text(&self.mount)])?;
        std::fs::remove_file(self.memory.join("filler"))?;
        call("e2fsck", &["-f", "-y", &text(&self.image())])?;
        self.mount()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        for path in [&self.mount, &self.memory] {
            // What was never mounted cannot be unmounted.
            let _ = call("umount", &[&text(path)]);
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn fill(folder: &Path) -> Result<(), Failure> {
    let path = folder.join("filler");
    let file = std::fs::File::create(&path).map_err(|error| Failure::file(&path, error))?;
    let space = rustix::fs::statvfs(folder).map_err(std::io::Error::from)?;
    let free = (space.f_bavail * space.f_frsize).saturating_sub(SLACK_BYTES);
    let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free);
    reserved.map_err(|error| Failure::file(&path, std::io::Error::from(error)))
}

/// How a batch went.
#[derive(PartialEq, Eq, Debug)]
enum Sent {
    Written,
    Full,
    /// Refused or unanswered for another reason.
    Failed,
}

impl Test {
    /// Fills the disk under a node, restarts it there, and makes room again.
    pub(crate) fn run_full_disk(&mut self, disk: &LoopDisk) -> Result<(), Failure> {
        let mut node = NodeProcess::spawn(&self.options)?;
        let address = self.wait_ready(&mut node)?;
        block_on(async {
            self.check_all(&address).await?;
            self.send_batches(&address, 20).await?;
            disk.fill()?;
            self.send_until(&address, &mut node, |sent| *sent == Sent::Full).await?;
            println!("full after {} rows", grouped(self.ledger.borrow().acknowledged));
            self.check_all(&address).await
        })?;
        node.kill()?;
        let mut node = NodeProcess::spawn(&self.options)?;
        let address = self.wait_ready(&mut node)?;
        block_on(async {
            self.check_all(&address).await?;
            self.send_until(&address, &mut node, |sent| *sent == Sent::Full).await?;
            println!("started on the full disk; reads go on, writes are refused");
            disk.free()?;
            self.send_until(&address, &mut node, |sent| *sent == Sent::Written).await?;
            println!("writes go on by themselves since there is room");
            self.send_batches(&address, 200).await?;
            self.check_all(&address).await
        })?;
        self.restart_and_check(node)
    }

    /// Takes the memory from under a disk, so that writes fail in the device, and gives it back.
    pub(crate) fn run_failing_disk(&mut self, disk: &LoopDisk) -> Result<(), Failure> {
        let mut node = NodeProcess::spawn(&self.options)?;
        let address = self.wait_ready(&mut node)?;
        block_on(async {
            self.check_all(&address).await?;
            self.send_batches(&address, 20).await?;
            disk.fill_memory()?;
            self.send_until(&address, &mut node, |_| false).await
        })?;
        let status = node.end_status()?;
        if status.code() != Some(FatalReason::WalWrite.exit_code()) {
            return Err(Failure::failed(format!("the node ended with {status}, not as it should")));
        }
        let acknowledged = grouped(self.ledger.borrow().acknowledged);
        println!("the disk failed after {acknowledged} rows and the node ended with code 71");
        disk.repair()?;
        let mut node = NodeProcess::spawn(&self.options)?;
        let address = self.wait_ready(&mut node)?;
        block_on(async {
            self.check_all(&address).await?;
            self.send_batches(&address, 20).await?;
            self.check_all(&address).await
        })?;
        self.restart_and_check(node)
    }

    fn restart_and_check(&mut self, mut node: NodeProcess) -> Result<(), Failure> {
        for _ in 0..2 {
            let status = node.stop()?;
            if !status.success() {
                return Err(Failure::failed(format!("a stop did not end well: {status}")));
            }
            node = NodeProcess::spawn(&self.options)?;
            let address = self.wait_ready(&mut node)?;
            block_on(self.check_all(&address))?;
        }
        node.kill()
    }

    async fn send_batches(&self, address: &str, count: usize) -> Result<(), Failure> {
        let client = self.connect(address).await?;
        let collection = client.collection(COLLECTION);
        for _ in 0..count {
            let sent = self.send(&collection).await;
            if sent != Sent::Written {
                return Err(Failure::failed(format!("a batch that must be taken: {sent:?}")));
            }
        }
        Ok(())
    }

    /// Sends batches until one went as wanted, or the node has ended.
    async fn send_until(
        &self,
        address: &str,
        node: &mut NodeProcess,
        is_wanted: impl Fn(&Sent) -> bool,
    ) -> Result<(), Failure> {
        let client = self.connect(address).await?;
        let collection = client.collection(COLLECTION);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let sent = self.send(&collection).await;
            if is_wanted(&sent) || node.has_ended() {
                return Ok(());
            }
            if sent != Sent::Written {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Err(Failure::failed("nothing became of it in time"))
    }

    /// Puts the next batch; what was refused stays in the ledger as tried.
    async fn send(&self, collection: &Collection) -> Sent {
        let first = self.next.get();
        self.next.set(first + BATCH);
        let rows = self.material.rows();
        let places = (first..first + BATCH).map(|place| (place % rows, (place / rows) as u32));
        let places: Vec<(usize, u32)> = places.collect();
        let objects: Vec<Object> = places
            .iter()
            .map(|(row, version)| {
                Object::new(ObjectId::from_row(*row as u64))
                    .with_properties(self.material.properties(*row, *version))
                    .with_vector(self.material.vector(*row, *version).to_vec())
            })
            .collect();
        for (row, version) in &places {
            self.ledger.borrow_mut().sending(*row, Write::Put(*version));
        }
        let Ok(outcomes) = collection.put_batch(PutMode::Replace, &objects).await else {
            return Sent::Failed;
        };
        let mut sent = Sent::Written;
        for (outcome, (row, version)) in outcomes.iter().zip(&places) {
            match outcome {
                Ok(_) => self.ledger.borrow_mut().acknowledge(*row, Write::Put(*version)),
                Err(ClientError::Api(error)) if error.code == ErrorCode::DiskFull => {
                    sent = Sent::Full;
                }
                Err(_) => sent = Sent::Failed,
            }
        }
        sent
    }
}
