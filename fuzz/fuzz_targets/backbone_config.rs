#![no_main]

#[path = "../parsers.rs"]
mod parsers;

use std::sync::LazyLock;

static FOLDER: LazyLock<parsers::Folder> = LazyLock::new(parsers::Folder::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    FOLDER.backbone_config(data);
});
