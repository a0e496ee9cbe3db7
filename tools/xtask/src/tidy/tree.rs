//! The text files of the repository, read once.

use std::path::Path;

use super::lexer::Layers;
use crate::command::Failure;

/// Larger files are data: no rule reads them.
const TEXT_SIZE_BYTES_MAX: u64 = 1 << 20;

/// Folder names that are never entered: build output, version control, local cluster data.
const FOLDERS_SKIPPED: [&str; 4] = ["target", ".git", "node_modules", ".venv"];

/// One text file; for Rust files also its code and comments apart.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Relative to the repository, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Present for `.rs` files.
    pub(crate) layers: Option<Layers>,
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let layers = path.ends_with(".rs").then(|| Layers::split(text));
        Self { path: path.to_owned(), text: text.to_owned(), layers }
    }
}

/// Every text file of the repository, sorted by path.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: Vec<SourceFile>,
}

impl Tree {
    /// Reads the files below `root`. Files that vanish meanwhile are skipped.
    pub(crate) fn load(root: &Path) -> Result<Self, Failure> {
        let mut tree = Self::default();
        tree.load_folder(root, "")?;
        tree.files.sort_by(|left, right| left.path.cmp(&right.path));
        Ok(tree)
    }

    fn load_folder(&mut self, folder: &Path, prefix: &str) -> Result<(), Failure> {
        let entries = std::fs::read_dir(folder).map_err(|error| Failure::io(folder, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Failure::io(folder, &error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                if !FOLDERS_SKIPPED.contains(&name.as_str()) {
                    self.load_folder(&entry.path(), &format!("{path}/"))?;
                }
            } else if metadata.is_file()
                && metadata.len() <= TEXT_SIZE_BYTES_MAX
                && let Ok(text) = std::fs::read_to_string(entry.path())
                && !text.contains('\0')
            {
                self.files.push(SourceFile::new(&path, &text));
            }
        }
        Ok(())
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter()
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = (&SourceFile, &Layers)> {
        self.files.iter().filter_map(|file| file.layers.as_ref().map(|layers| (file, layers)))
    }

    pub(crate) fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// A tree of invented files, for tests of rules.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| SourceFile::new(path, text)).collect() }
    }
}
