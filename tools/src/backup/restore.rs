//! Making a data directory from a backup.
//!
//! Nothing of the backup is trusted: its names are of few forms, its files are opened below its
//! directory without following links, and each has to have the bytes and the checksum that the
//! manifest says. The identity of the new node is written last; a directory without it is refused
//! by every node, so a restore that was cut off cannot be taken for a whole one.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use heddle_meta::manifest::{FileEntry, MANIFEST, MANIFEST_BYTES_MAX, Manifest, MissingShard};
use heddle_net::identity::{FORMAT_VERSION, Identity};
use heddle_types::{NodeId, ShardId};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::device::write_zeros;
use super::reshard::{ASIDE, deal_anew};
use super::{make_empty, sync_directory};
use crate::failure::Failure;

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;
/// The identity of a node, in its data directory.
const IDENTITY: &str = "node.json";

/// Reads the manifest and checks every file against it.
pub(crate) fn check(directory: &Path) -> Result<Manifest, Failure> {
    let root = open_root(directory)?;
    let manifest = read_manifest(directory, &root)?;
    for file in &manifest.files {
        copy(directory, &root, file, &mut std::io::sink())?;
    }
    Ok(manifest)
}

/// What to do about shards that a backup lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Missing {
    /// Restore nothing and name them.
    Refuse,
    /// Make them anew: empty.
    Empty,
}

/// How a backup is restored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Shards that every collection has from now on; as many as it had without.
    pub(crate) shards: Option<u32>,
    pub(crate) missing: Missing,
}

/// Makes a data directory that a node can start from; what it was made of.
pub(crate) fn restore(
    directory: &Path,
    data_dir: &Path,
    wanted: Wanted,
) -> Result<Manifest, Failure> {
    // Before anything is written: a damaged backup leaves no half of a directory.
    let manifest = check(directory)?;
    if wanted.missing == Missing::Refuse {
        refuse_missing(directory, &manifest)?;
    }
    // A copy is a node of its own: two nodes of one identity would issue the same stamps.
    let node = NodeId::random();
    // Under their old numbers the log may have some of what missing shards held.
    let missing: Vec<ShardId> = manifest.missing.iter().map(|missing| missing.shard).collect();
    let old = manifest.catalog.clone().on_node(node).with_new_shards(&missing);
    let homes = manifest.data_cores;
    let dealt = wanted.shards.map(|count| old.clone().resharded(count, homes)).transpose();
    let dealt = dealt.map_err(|error| Failure::usage(format!("--shards: {error}")))?;
    make_empty(data_dir)?;
    let catalog = match dealt {
        None => {
            copy_files(directory, &manifest, data_dir)?;
            old
        }
        Some(new) => {
            let aside = data_dir.join(ASIDE);
            copy_files(directory, &manifest, &aside)?;
            deal_anew(data_dir, &old, &new)?;
            let removed = std::fs::remove_dir_all(&aside);
            removed.map_err(|error| Failure::file(&aside, error))?;
            new
        }
    };
    let files = heddle_meta::store::first_files(&catalog);
    for (name, bytes) in files.map_err(|error| Failure::failed(error.to_string()))? {
        write_new(&data_dir.join(name), &bytes)?;
    }
    sync_directory(data_dir)?;
    let disk = NodeId::random().0;
    let identity = Identity { format_version: FORMAT_VERSION, node, disk, boot: 0 };
    write_new(&data_dir.join(IDENTITY), &serde_json::to_vec_pretty(&identity)?)?;
    sync_directory(data_dir)?;
    Ok(manifest)
}

fn refuse_missing(directory: &Path, manifest: &Manifest) -> Result<(), Failure> {
    if manifest.missing.is_empty() {
        return Ok(());
    }
    let name =
        |it: &MissingShard| format!("shard {} of {}: {}", it.shard, it.collection, it.reason);
    let names: Vec<String> = manifest.missing.iter().map(name).collect();
    let text = format!(
        "lacks shards that were damaged when it was taken; --allow-missing restores the rest: {}",
        names.join("; ")
    );
    Err(Failure::input(directory, text))
}

/// Puts the files of a backup where they were in their data directory.
fn copy_files(directory: &Path, manifest: &Manifest, data_dir: &Path) -> Result<(), Failure> {
    let root = open_root(directory)?;
    for file in &manifest.files {
        let path = data_dir.join(&file.name);
        let failed = |error| Failure::file(&path, error);
        let folder = path.parent().unwrap_or(data_dir);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut out = File::create_new(&path).map_err(failed)?;
        copy(directory, &root, file, &mut out)?;
        write_zeros(&out, file.bytes, file.length).map_err(failed)?;
        out.sync_all().map_err(failed)?;
        sync_directory(folder)?;
        if let Some(above) = folder.parent() {
            sync_directory(above)?;
        }
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| Failure::file(path, error))
}

fn open_root(directory: &Path) -> Result<File, Failure> {
    File::open(directory).map_err(|error| Failure::input(directory, error))
}

/// Opens a file below the backup's directory; no part of its path may be a link.
fn open_beneath(directory: &Path, root: &File, name: &str) -> Result<File, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(root, name, flags, Mode::empty(), beneath);
    let file =
        opened.map(File::from).map_err(|error| Failure::input(&directory.join(name), error))?;
    let kind = file.metadata().map_err(|error| Failure::input(&directory.join(name), error))?;
    if !kind.is_file() {
        return Err(Failure::input(&directory.join(name), "is no file"));
    }
    Ok(file)
}

fn read_manifest(directory: &Path, root: &File) -> Result<Manifest, Failure> {
    let path = directory.join(MANIFEST);
    let file = open_beneath(directory, root, MANIFEST).map_err(|failure| {
        let why = "no whole backup: the manifest, which is written last, cannot be read";
        Failure { message: format!("{}: {why}: {failure}", directory.display()), ..failure }
    })?;
    let mut bytes = Vec::new();
    let read = file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::input(&path, error))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        let most = format!("has more than {MANIFEST_BYTES_MAX} bytes");
        return Err(Failure::input(&path, most));
    }
    Manifest::decode(&bytes).map_err(|error| Failure::input(&path, error))
}

/// Copies a file of the backup and checks its length and checksum on the way.
fn copy(
    directory: &Path,
    root: &File,
    file: &FileEntry,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let path = directory.join(&file.name);
    let mut source = open_beneath(directory, root, &file.name)?;
    let mut buffer = vec![0; COPY_BYTES];
    let (mut found, mut crc) = (0_u64, 0);
    loop {
        let count = source.read(&mut buffer).map_err(|error| Failure::input(&path, error))?;
        if count == 0 {
            break;
        }
        found += count as u64;
        if found > file.bytes {
            break;
        }
        crc = crc32c::crc32c_append(crc, &buffer[..count]);
        out.write_all(&buffer[..count]).map_err(|error| Failure::file(&path, error))?;
    }
    let expected = file.bytes;
    if found != expected {
        let more = if found > expected { "more than " } else { "" };
        let found = found.min(expected);
        let text = format!("is damaged: {more}{found} bytes, the manifest says {expected}");
        return Err(Failure::input(&path, text));
    }
    if crc != file.crc32c {
        let expected = file.crc32c;
        let text = format!("is damaged: checksum {crc:08x}, the manifest says {expected:08x}");
        return Err(Failure::input(&path, text));
    }
    Ok(())
}
