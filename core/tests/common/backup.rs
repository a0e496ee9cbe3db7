//! Backups of a simulated node, and the node that they are restored to.

use heddle_core::engine::BackupFile;
use heddle_sim::SimDisk;
use heddle_types::{Device, NodeId};
use uuid::Uuid;

use super::World;

/// Where backups are put.
pub const FOLDER: &str = "backups/one";

/// Makes the folder of a backup.
pub async fn new_folder(disk: &SimDisk) {
    disk.create_dir(FOLDER).await.unwrap();
    disk.sync_dir("backups").await.unwrap();
}

/// Another node that got the files of a backup.
pub fn restored(source: &World, files: &[BackupFile]) -> World {
    let world =
        World { disk: SimDisk::new(77), node: NodeId(Uuid::from_u128(8)), ..source.clone() };
    for file in files {
        let mut bytes = source.disk.file_bytes(&format!("{FOLDER}/{}", file.name)).unwrap();
        bytes.truncate(usize::try_from(file.bytes).unwrap());
        assert_eq!(bytes.len() as u64, file.bytes, "{file:?}");
        bytes.resize(usize::try_from(file.length).unwrap(), 0);
        world.disk.plant_file(&file.name, bytes);
    }
    World { boot: 0, ..world }
}
