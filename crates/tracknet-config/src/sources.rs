//! Where the file of a group comes from: a path, a configs folder, or the configs built into the binary.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::typo;
use tracknet_io::console::listing;
use tracknet_io::files::read::YAML;
use tracknet_io::files::{FileError, read_bytes};

/// The most names that an error lists.
const MOST_NAMES: usize = 20;

/// The folder of configs that is looked in when neither `--config-dir` nor this variable names one.
pub const CONFIG_DIR_VARIABLE: &str = "TRACKNET_CONFIG_DIR";

macro_rules! embedded {
    ($($group:literal / $name:literal),+ $(,)?) => {
        &[$(Embedded {
            group: $group,
            name: $name,
            text: include_str!(concat!("../../../configs/", $group, "/", $name, ".yaml")),
        }),+]
    };
}

/// A config that travels in the binary, so that an installed binary works in any directory.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// `data`, `model` or `training`.
    pub group: &'static str,
    /// Name without `.yaml`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

/// Every config of the binary.
pub const EMBEDDED: &[Embedded] = embedded![
    "data" / "tracknet",
    "data" / "tracknet_windows",
    "data" / "finetune",
    "data" / "quickstart",
    "data" / "pretrain",
    "data" / "detector",
    "model" / "vit_heatmap",
    "model" / "vit_lora_heatmap",
    "model" / "vit_qlora_heatmap",
    "model" / "convnext_fpn_heatmap",
    "model" / "convnext_hrnet_heatmap",
    "model" / "convnext_deformable_fpn_heatmap",
    "model" / "vit_unet_heatmap",
    "model" / "finetune",
    "model" / "pretrain",
    "model" / "detector",
    "training" / "default",
    "training" / "finetune",
    "training" / "quickstart",
    "training" / "pretrain",
    "training" / "detector",
];

/// The name that stands in for a group that is not given.
pub(crate) fn default_name(group: &str) -> &'static str {
    match group {
        "data" => "tracknet",
        "model" => "vit_heatmap",
        _ => "default",
    }
}

/// A file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The path as messages name it.
    pub(crate) label: String,
    pub(crate) text: String,
}

/// The configs folders to look in, nearest first.
pub(crate) fn config_dirs(flag: Option<&Path>, variable: Option<String>, working: &Path) -> Vec<PathBuf> {
    let named = variable.filter(|v| !v.is_empty()).map(PathBuf::from);
    flag.map(Path::to_path_buf).into_iter().chain(named).chain([working.join("configs")]).collect()
}

/// Finds the file of `group` by name or path.
pub(crate) fn find(group: &str, name_or_path: &str, dirs: &[PathBuf]) -> Result<Found, Problem> {
    let problem = |path: &Path, message: String| Problem::new(shown(path).display().to_string(), group, message);
    if is_path(name_or_path) {
        let path = Path::new(name_or_path);
        return read(path).map_err(|message| problem(path, message + hint_for_directory(group, path)));
    }
    for dir in dirs {
        for extension in ["yaml", "yml"] {
            let path = dir.join(group).join(format!("{name_or_path}.{extension}"));
            match fs::symlink_metadata(&path) {
                Ok(_) => return read(&path).map_err(|message| problem(&path, message)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(problem(&path, unreadable(&error))),
            }
        }
    }
    match EMBEDDED.iter().find(|e| e.group == group && e.name == name_or_path) {
        Some(e) => Ok(Found { label: format!("configs/{group}/{}.yaml (built in)", e.name), text: e.text.into() }),
        None => Err(Problem::new(format!("--{group}"), group, not_found(group, name_or_path, dirs))),
    }
}

/// What is added to the message when a directory stands where a file is expected: `--data` is often given the data set.
fn hint_for_directory(group: &str, path: &Path) -> &'static str {
    if group == "data" && path.is_dir() { "; the directory of a data set is given as data.root=DIR" } else { "" }
}

fn not_found(group: &str, name: &str, dirs: &[PathBuf]) -> String {
    let (known, closed) = known_names(group, dirs);
    let near = typo::meant(name, known.iter().map(String::as_str));
    let hint = near.map_or_else(|| ".".to_owned(), |near| format!("; did you mean {near}?"));
    let looked: Vec<_> = dirs.iter().map(|d| shown(d).join(group).display().to_string()).collect();
    format!(
        "no {group} config is named {name}{hint} Known: {}. Looked in {}, and in the binary{closed}. A path to a file works, \
         too",
        listing(&known, MOST_NAMES),
        looked.join(", ")
    )
}

/// A path as messages show it: without the `./` of the working directory.
fn shown(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

/// Every name that `--data`, `--model` or `--training` would find, sorted; and what is to be said of folders that cannot
/// be looked into.
fn known_names(group: &str, dirs: &[PathBuf]) -> (Vec<String>, String) {
    let mut names: Vec<String> = EMBEDDED.iter().filter(|e| e.group == group).map(|e| e.name.to_owned()).collect();
    let mut closed = String::new();
    for dir in dirs.iter().map(|dir| dir.join(group)) {
        match fs::read_dir(&dir) {
            Ok(files) => names.extend(files.flatten().filter_map(|file| config_name(&file.path()))),
            Err(error) if is_absent(&error) => {}
            Err(error) => closed += &format!(", but {} cannot be read: {error}", shown(&dir).display()),
        }
    }
    names.sort();
    names.dedup();
    (names, closed)
}

/// The name of a config that lies in a folder; `None` of hidden files, and of what is no regular file.
fn config_name(path: &Path) -> Option<String> {
    let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let name = path.file_stem()?.to_str().filter(|name| yaml && !name.starts_with('.'))?;
    path.is_file().then(|| name.to_owned())
}

/// Whether the error says that there is no such file; any other is about a file that exists.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

fn is_path(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    text.contains(['/', std::path::MAIN_SEPARATOR]) || lower.ends_with(".yaml") || lower.ends_with(".yml")
}

/// Reads a regular file of a size that a configuration can have. The error does not name the path.
pub(crate) fn read(path: &Path) -> Result<Found, String> {
    let bytes = read_bytes(path, YAML).map_err(|error| match error {
        FileError::Io { cause, .. } => unreadable(&cause),
        FileError::NotRegular { found, .. } => format!("is {found}, expected a YAML file"),
        FileError::TooLarge { size, kind, limit, .. } => {
            format!("{size} bytes are too many for {kind} (at most {limit})")
        }
        other => other.to_string(),
    })?;
    Ok(Found { label: shown(path).display().to_string(), text: decode(bytes)? })
}

fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let line_of = |bytes: &[u8], at: usize| 1 + bytes.iter().take(at).filter(|b| **b == b'\n').count();
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16 text; save the file as UTF-8".to_owned());
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        let line = line_of(&bytes, at);
        return Err(format!("line {line} holds a zero byte: this is UTF-16 or no text; save the file as UTF-8"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = line_of(e.as_bytes(), e.utf8_error().valid_up_to());
        format!("line {line} is not UTF-8 text; save the file as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_the_folders_in_order_and_then_in_the_binary() {
        let dir = tempfile::tempdir().unwrap();
        let (near, far) = (dir.path().join("near"), dir.path().join("far"));
        for (root, name) in [(&near, "a"), (&far, "a"), (&far, "b")] {
            std::fs::create_dir_all(root.join("model")).unwrap();
            std::fs::write(root.join(format!("model/{name}.yaml")), format!("# {}", root.display())).unwrap();
        }
        let dirs = config_dirs(Some(&near), Some(far.display().to_string()), dir.path());
        assert_eq!(find("model", "a", &dirs).unwrap().text, format!("# {}", near.display()));
        assert_eq!(find("model", "b", &dirs).unwrap().text, format!("# {}", far.display()));
        assert_eq!(find("model", "vit_heatmap", &dirs).unwrap().label, "configs/model/vit_heatmap.yaml (built in)");
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_where_was_looked() {
        let problem = find("training", "defualt", &[PathBuf::from("configs")]).unwrap_err();
        assert_eq!(
            problem.to_string(),
            "--training: no training config is named defualt; did you mean default? Known: default, detector, finetune, pretrain, \
             quickstart. Looked in configs/training, and in the binary. A path to a file works, too"
        );
        let problem = find("training", "zzzzzzzzzzz", &[PathBuf::from("configs")]).unwrap_err();
        assert!(problem.message.starts_with("no training config is named zzzzzzzzzzz. Known: default"), "{problem}");
    }

    #[test]
    fn a_path_that_is_missing_or_not_text_is_named() {
        assert!(find("data", "none/x.yaml", &[]).unwrap_err().to_string().starts_with("none/x.yaml: cannot be read"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yml");
        std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
        let problem = find("data", &path.display().to_string(), &[]).unwrap_err();
        assert!(problem.message.starts_with("line 2 is not UTF-8"), "{problem}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_called_what_it_is_by_name_and_by_path() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("data");
        std::fs::create_dir_all(group.join("folder.yaml")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(group.join("pipe.yaml")).status().unwrap().success());
        symlink("/dev/zero", group.join("zero.yaml")).unwrap();
        symlink("nothing", group.join("dangling.yaml")).unwrap();
        symlink("loop.yaml", group.join("loop.yaml")).unwrap();
        let large = std::fs::File::create(group.join("large.yaml")).unwrap();
        large.set_len(1 << 40).unwrap();
        std::fs::write(group.join("._mac.yaml"), "").unwrap();
        let dirs = [dir.path().to_path_buf()];
        let cases = [
            ("folder", "is a directory, expected a YAML file"),
            ("pipe", "is a named pipe, expected a YAML file"),
            ("zero", "is a device, expected a YAML file"),
            ("dangling", "cannot be read: No such file"),
            ("loop", "cannot be read: Too many levels of symbolic links"),
            ("large", "1099511627776 bytes are too many for a YAML configuration (at most 4194304)"),
        ];
        for (name, expected) in cases {
            let path = group.join(format!("{name}.yaml")).display().to_string();
            for given in [name, path.as_str()] {
                let problem = find("data", given, &dirs).unwrap_err().to_string();
                assert!(problem.starts_with(&format!("{path}: {expected}")), "{problem}");
            }
        }
        let problem = find("data", &format!("{}/", dir.path().display()), &dirs).unwrap_err();
        assert!(problem.message.ends_with("the directory of a data set is given as data.root=DIR"), "{problem}");
        let problem = find("data", "nothing-of-these", &dirs).unwrap_err().to_string();
        assert!(
            problem.contains("Known: detector, finetune, large, pretrain, quickstart, tracknet, tracknet_windows."),
            "{problem}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_cannot_be_looked_into_is_not_taken_for_an_empty_one() {
        // A loop of links fails like a folder without permission, also for a user who may read everything.
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("data", dir.path().join("data")).unwrap();
        let dirs = [dir.path().to_path_buf()];
        let problem = find("data", "mine", &dirs).unwrap_err().to_string();
        assert!(problem.contains("data/mine.yaml: cannot be read: Too many levels"), "{problem}");
        let message = not_found("data", "mine", &dirs);
        assert!(message.contains("data cannot be read: Too many levels"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_without_permission_is_not_called_missing() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let path = dir.path().join("data/mine.yaml");
        std::fs::write(&path, "root: x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        let found = find("data", "mine", &[dir.path().to_path_buf()]);
        match std::fs::read(&path) {
            // Root may read everything.
            Ok(_) => assert_eq!(found.unwrap().text, "root: x"),
            Err(_) => assert!(found.unwrap_err().message.contains("Permission denied")),
        }
        assert_eq!(unreadable(&ErrorKind::PermissionDenied.into()), "cannot be read: permission denied");
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16: Vec<u8> = "\u{feff}root: x\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(utf16.clone()).unwrap_err(), "is UTF-16 text; save the file as UTF-8");
        let big: Vec<u8> = "\u{feff}root: x\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(big).unwrap_err(), "is UTF-16 text; save the file as UTF-8");
        assert!(decode(utf16[2..].to_vec()).unwrap_err().starts_with("line 1 holds a zero byte: this is UTF-16"));
        assert_eq!(
            decode(b"a: 1\nb: caf\xe9\n".to_vec()).unwrap_err(),
            "line 2 is not UTF-8 text; save the file as UTF-8"
        );
        assert_eq!(decode("\u{feff}a: 1".into()).unwrap(), "\u{feff}a: 1");
    }

    #[test]
    fn a_long_name_is_not_compared_and_a_long_list_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        for i in 0..40 {
            std::fs::write(dir.path().join(format!("data/a{i:02}.yaml")), "").unwrap();
        }
        let problem = find("data", "nothing", &[dir.path().to_path_buf()]).unwrap_err().to_string();
        assert!(problem.contains("a19, … and 26 more."), "{problem}");
        assert!(not_found("data", &"k".repeat(1 << 20), &[]).contains("kk. Known: detector"));
    }

    #[test]
    fn every_shipped_config_is_in_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        for group in ["data", "model", "training"] {
            for file in std::fs::read_dir(root.join(group)).unwrap() {
                let name = file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
                assert!(EMBEDDED.iter().any(|e| e.group == group && e.name == name), "{group}/{name}");
            }
        }
    }
}
