//! Models from a hub, as a user meets them.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tracknet_testing::hub::{COMMIT, Hub};

use common::{TINY, contains_all, finish, fixture, program};

const DOWNLOAD: &str = "model.backbone.local_files_only=false";

/// A hub with the tiny checkpoint of the library's tests.
fn hub() -> Hub {
    let file = |name: &'static str| (name, fs::read(fixture("dinov3_tiny").join(name)).unwrap());
    Hub::start("org/tiny", [file("config.json"), file("model.safetensors")])
}

/// `tracknet train` in `dir`, which holds the cache, away from the settings of whoever runs the tests.
fn train(dir: &Path, hub: &Hub, arguments: &[&str]) -> Command {
    let mut command = program(dir);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["HF_", "HUGGING", "TRANSFORMERS_", "XDG_"].iter().any(|start| name.starts_with(start))
            || name.to_ascii_lowercase().ends_with("_proxy")
            || name == "SSL_CERT_FILE"
        {
            command.env_remove(&*name);
        }
    }
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", dir.join("hf"));
    command.args(["train", "--model", "vit_heatmap"]).args(TINY);
    command.args(["model.pretrained_model_name=org/tiny", "model.decoder.channels=[64,16]"]).args(arguments);
    command
}

#[test]
fn a_hub_id_is_downloaded_where_the_configuration_allows_it_and_found_afterwards() {
    let (dir, hub) = (tempfile::tempdir().unwrap(), hub());
    let dry_run = |arguments: &[&str]| train(dir.path(), &hub, &[&["--dry-run"], arguments].concat());
    let [_, message] = finish(1, &mut dry_run(&[]));
    contains_all(&message, &["model.pretrained_model_name", "`hf download org/tiny`", DOWNLOAD]);
    let [_, message] = finish(1, dry_run(&[DOWNLOAD]).env("HF_HUB_OFFLINE", "1"));
    contains_all(&message, &["HF_HUB_OFFLINE", "`hf download org/tiny`"]);
    assert_eq!(hub.asked(), []);

    let [printed, said] = finish(0, &mut dry_run(&[DOWNLOAD]));
    contains_all(&said, &["downloading org/tiny from http://127.0.0.1"]);
    contains_all(&printed, &["models--org--tiny", "estimated training peak"]);
    assert!(!printed.contains("downloading"), "{printed}");
    let found = dir.path().join("hf/hub/models--org--tiny/snapshots").join(COMMIT).join("model.safetensors");
    assert_eq!(fs::read(found).unwrap(), fs::read(fixture("dinov3_tiny").join("model.safetensors")).unwrap());

    let asked = hub.asked().len();
    for arguments in [&[][..], &[DOWNLOAD]] {
        finish(0, &mut dry_run(arguments));
    }
    assert_eq!(hub.asked().len(), asked, "what is there is not asked for");
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_ends_at_once_and_goes_on_later() {
    use std::os::unix::process::ExitStatusExt;
    let (dir, hub) = (tempfile::tempdir().unwrap(), hub());
    hub.behave(|behaviour| behaviour.breaks = vec![1000; 1000]);
    let mut child = train(dir.path(), &hub, &[DOWNLOAD]).spawn().unwrap();
    let begun = Instant::now();
    while hub.sent_by_storage() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no download");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().signal(), Some(2));
    assert!(!dir.path().join("hf/hub/models--org--tiny/refs").exists());

    let sent = hub.sent_by_storage();
    hub.behave(|behaviour| behaviour.breaks.clear());
    finish(0, &mut train(dir.path(), &hub, &["--dry-run", DOWNLOAD]));
    let size = fs::metadata(fixture("dinov3_tiny").join("model.safetensors")).unwrap().len();
    assert!(sent > 0 && hub.sent_by_storage() == size, "{sent} of {size} bytes, then the rest");
}
