//! The rooms of the library import what `docs/architecture.md` allows, and nothing else.
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// For each room, the rooms that it may import.
type Directions = BTreeMap<String, BTreeSet<String>>;

/// The folder of the library.
fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The table below the heading `## Directions`: a room in the first cell, what it may import in the second.
fn directions() -> Directions {
    let document = fs::read_to_string(library().join("../../docs/architecture.md")).unwrap();
    let section = document.split("\n## Directions\n").nth(1).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let names = |cell: &str| -> BTreeSet<String> {
        let names = cell.split(',').map(|name| name.trim().trim_matches('`').to_owned());
        names.filter(|name| !name.is_empty() && name != "–").collect()
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        (cells[0].trim().trim_matches('`').to_owned(), names(cells[1]))
    };
    rows.take_while(|line| line.starts_with('|')).map(row).collect()
}

/// The source files of a room: `src/<room>.rs` and everything below `src/<room>/`.
fn sources(room: &str) -> Vec<PathBuf> {
    let src = library().join("src");
    let mut files = Vec::from_iter(Some(src.join(format!("{room}.rs"))).filter(|file| file.is_file()));
    let mut folders = Vec::from_iter(Some(src.join(room)).filter(|folder| folder.is_dir()));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                Some(extension) if extension == "rs" => files.push(path),
                _ => folders.extend(Some(path).filter(|path| path.is_dir())),
            }
        }
    }
    files.sort();
    files
}

/// The rooms that the code of a file names after `crate::`, with their lines. Comments, and the tests at the end of the
/// file, may name any.
fn imports(text: &str) -> Vec<(usize, String)> {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let first_name =
        |path: &str| path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default();
        for path in line.split("crate::").skip(1) {
            let paths = path.strip_prefix('{').map_or_else(|| vec![path], |group| group.split(',').collect());
            let rooms = paths.into_iter().map(first_name).filter(|name| name.starts_with(char::is_lowercase));
            found.extend(rooms.map(|room| (number + 1, room)));
        }
    }
    found
}

#[test]
fn every_import_goes_in_an_allowed_direction() {
    let directions = directions();
    let mut wrong = Vec::new();
    for (room, allowed) in &directions {
        let files = sources(room);
        assert!(!files.is_empty(), "docs/architecture.md has the room `{room}`, and the library has not");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let forbidden = imports(&text).into_iter().filter(|(_, name)| name != room && !allowed.contains(name));
            let place = file.strip_prefix(library()).unwrap().display().to_string();
            wrong.extend(forbidden.map(|(line, name)| format!("{place}:{line}: {room} imports {name}")));
        }
    }
    assert!(wrong.is_empty(), "docs/architecture.md does not allow:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_stands_in_the_table_and_no_two_import_each_other() {
    let directions = directions();
    let text = fs::read_to_string(library().join("src/lib.rs")).unwrap();
    let modules =
        text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    // The enum of all errors: every room returns it, and it holds those of every room.
    for module in modules.filter(|module| *module != "error") {
        assert!(
            directions.contains_key(module),
            "src/lib.rs has the room `{module}`, and docs/architecture.md has not"
        );
    }
    for (room, allowed) in &directions {
        for other in allowed {
            let back = directions.get(other).is_some_and(|names| names.contains(room));
            assert!(!back, "{room} and {other} import each other");
        }
    }
}

#[test]
fn imports_are_found_in_groups_and_paths_and_not_in_comments_and_tests() {
    let text = "use crate::{files, models::Vit};\n// crate::bench\nlet x = crate::config::Y; crate::Result\n\
                #[cfg(test)]\nmod tests {\n use crate::training;\n}\n";
    let found = imports(text);
    let names: Vec<_> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(names, [(1, "files"), (1, "models"), (3, "config")]);
}
