use std::time::Duration;

use super::*;

/// An environment whose variables say nothing but where the caches are.
fn environment(caches: &[&Path]) -> Environment {
    let caches = caches.iter().map(|cache| cache.to_path_buf()).collect();
    Environment { caches, proxy: false, pause: Duration::from_millis(1), ..Environment::of(|_| None) }
}

fn message(name: &str, missing: Missing, environment: &Environment) -> String {
    locate(name, missing, environment).unwrap_err().to_string()
}

#[test]
fn a_hub_id_is_found_through_the_revision_that_main_names() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--org--small");
    for revision in ["aaa", "bbb"] {
        fs::create_dir_all(folder.join("snapshots").join(revision)).unwrap();
    }
    let environment = environment(&[Path::new("/nowhere"), cache.path()]);
    let message = message("org/small", Missing::IsAnError, &environment);
    assert!(message.contains("holds 2 revisions, and refs/main names none"), "{message}");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), "bbb\n").unwrap();
    assert_eq!(locate("org/small", Missing::IsAnError, &environment).unwrap(), folder.join("snapshots/bbb"));
}

#[test]
fn a_missing_model_says_where_it_was_looked_for_and_how_to_get_it() {
    let environment = environment(&[Path::new("/some/cache")]);
    let plain = message("org/none", Missing::IsAnError, &environment);
    assert!(plain.contains("/some/cache") && plain.contains("`hf download org/none`"), "{plain}");
    assert!(!plain.contains("local_files_only"), "{plain}");
    let with_key = message("org/none", Missing::CouldBeDownloaded, &environment);
    assert!(with_key.contains("model.backbone.local_files_only=false downloads it"), "{with_key}");
}

#[test]
fn a_name_that_would_leave_the_cache_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    for name in ["../org", "...", "a/b/c", "/etc/nothing"] {
        let message = message(name, Missing::IsDownloaded, &environment(&[cache.path()]));
        assert!(message.contains("neither a directory nor a hub id"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_not_called_absent() {
    use std::os::unix::fs::symlink;
    let cache = tempfile::tempdir().unwrap();
    let broken = cache.path().join("broken");
    symlink("/nowhere/else", &broken).unwrap();
    let of = |path: &Path| message(&path.display().to_string(), Missing::IsAnError, &environment(&[]));
    let said = of(&broken);
    assert!(said.contains("is a link to /nowhere/else, which is not there"), "{said}");
    let page = cache.path().join("page");
    fs::write(&page, "<!doctype html>").unwrap();
    let said = of(&page);
    assert!(said.contains("is a web page"), "{said}");
}

#[test]
fn a_model_is_whole_with_its_description_and_every_file_of_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let (path, put) = (dir.path(), |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap());
    put("pytorch_model.bin", "");
    assert!(!is_whole(path).unwrap());
    put("config.json", "{}");
    assert!(!is_whole(path).unwrap());
    put("model.safetensors.index.json", r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#);
    put("1.safetensors", "");
    assert!(!is_whole(path).unwrap());
    put("2.safetensors", "");
    assert!(is_whole(path).unwrap());
    fs::remove_file(path.join("2.safetensors")).unwrap();
    put("model.safetensors", "");
    assert!(is_whole(path).unwrap());
    fs::remove_file(path.join("config.json")).unwrap();
    assert!(!is_whole(path).unwrap());
}

/// Downloads from a server on the loopback.
#[cfg(feature = "hub")]
mod downloads {
    use std::sync::Barrier;
    use std::thread;

    use tracknet_testing::hub::{COMMIT, Hub, sha256};

    use super::*;

    const NAME: &str = "org/tiny";
    const INDEX: &str = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}}"#;

    /// Bytes that differ everywhere.
    fn weights(count: usize) -> Vec<u8> {
        (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn files(count: usize) -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("README.md", b"# Tiny".to_vec()),
            ("config.json", br#"{"model_type": "vit"}"#.to_vec()),
            ("preprocessor_config.json", b"{}".to_vec()),
            ("pytorch_model.bin", vec![0x80; 1000]),
            ("model.safetensors", weights(count)),
        ]
    }

    struct World {
        hub: Hub,
        cache: tempfile::TempDir,
        environment: Environment,
    }

    fn world(files: Vec<(&'static str, Vec<u8>)>) -> World {
        let (hub, cache) = (Hub::start(NAME, files), tempfile::tempdir().unwrap());
        let environment = Environment { endpoint: hub.endpoint().to_owned(), ..environment(&[cache.path()]) };
        World { hub, cache, environment }
    }

    impl World {
        fn folder(&self) -> PathBuf {
            self.cache.path().join("models--org--tiny")
        }

        fn get(&self) -> Result<PathBuf> {
            locate(NAME, Missing::IsDownloaded, &self.environment)
        }

        fn fails(&self, name: &str) -> String {
            message(name, Missing::IsDownloaded, &self.environment)
        }

        fn partial(&self, content: &[u8]) -> PathBuf {
            self.folder().join("blobs").join(format!("{}.incomplete", sha256(content)))
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_model_is_built_from_is_downloaded_once_into_the_layout_of_the_cache() {
        let world = world(files(100_000));
        let dir = world.get().unwrap();
        assert_eq!(dir, world.folder().join("snapshots").join(COMMIT));
        assert_eq!(names(&dir), ["config.json", "model.safetensors", "preprocessor_config.json"]);
        for (name, bytes) in files(100_000).into_iter().filter(|(name, _)| dir.join(name).exists()) {
            assert_eq!(fs::read(dir.join(name)).unwrap(), bytes, "{name}");
        }
        let hash = sha256(&weights(100_000));
        #[cfg(unix)]
        assert_eq!(fs::read_link(dir.join("model.safetensors")).unwrap(), Path::new("../../blobs").join(&hash));
        let blobs = names(&world.folder().join("blobs"));
        assert_eq!(blobs.len(), 3, "nothing half-written is left: {blobs:?}");
        assert!(blobs.contains(&hash) && blobs.contains(&sha256(b"{}")[..40].to_owned()), "{blobs:?}");
        assert_eq!(fs::read_to_string(world.folder().join("refs/main")).unwrap(), COMMIT);
        assert_eq!(names(&world.folder()), ["blobs", "refs", "snapshots"]);
        assert_eq!(world.hub.sent_by_storage(), 100_000);
        let asked = world.hub.asked().len();
        assert_eq!(world.get().unwrap(), dir);
        assert_eq!(locate(NAME, Missing::IsAnError, &world.environment).unwrap(), dir);
        assert_eq!(world.hub.asked().len(), asked, "what is there is not asked for");
    }

    #[test]
    fn every_shard_that_the_index_names_is_downloaded() {
        let mut files = files(0);
        files.retain(|(name, _)| *name != "model.safetensors");
        files.push(("model.safetensors.index.json", INDEX.into()));
        files.extend([("one.safetensors", weights(50)), ("two.safetensors", weights(60))]);
        files.push(("three.safetensors", weights(70)));
        let world = world(files);
        let dir = world.get().unwrap();
        assert_eq!(fs::read(dir.join("one.safetensors")).unwrap(), weights(50));
        assert_eq!(fs::read(dir.join("two.safetensors")).unwrap(), weights(60));
        assert!(!dir.join("three.safetensors").exists());
        // As after an interruption between two shards.
        fs::remove_file(dir.join("two.safetensors")).unwrap();
        assert_eq!(world.get().unwrap(), dir);
        assert!(dir.join("two.safetensors").exists());
        assert_eq!(world.hub.sent_by_storage(), 110, "its content was there");
    }

    #[test]
    fn a_connection_that_breaks_off_is_made_again_where_it_ended() {
        let world = world(files(300_000));
        world.hub.behave(|behaviour| behaviour.breaks = vec![20_000; 7]);
        let dir = world.get().unwrap();
        assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights(300_000));
        assert_eq!(world.hub.sent_by_storage(), 300_000, "no byte was sent twice");
        let from: Vec<_> = world.hub.asked().iter().filter(|a| a.at_storage).map(|a| a.from.unwrap()).collect();
        assert_eq!(from, [0, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000, 140_000]);
    }

    #[test]
    fn a_download_that_ended_is_never_taken_for_a_model_and_goes_on_later() {
        let world = world(files(300_000));
        world.hub.behave(|behaviour| behaviour.breaks = vec![100_000, 0, 0, 0, 0]);
        let first = world.fails(NAME);
        assert!(first.contains("broke off") && first.contains("`hf download org/tiny`"), "{first}");
        let partial = world.partial(&weights(300_000));
        assert_eq!(fs::metadata(&partial).unwrap().len(), 100_000);
        assert!(!world.folder().join("refs").exists());
        let dir = locate(NAME, Missing::IsAnError, &world.environment).unwrap();
        let error = crate::artifacts::pretrained::Checkpoint::open(&dir).unwrap_err().to_string();
        assert!(error.contains("`hf download org/tiny` goes on with it"), "{error}");
        let dir = world.get().unwrap();
        assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights(300_000));
        assert_eq!(world.hub.sent_by_storage(), 300_000);
        assert!(!partial.exists());
    }

    #[test]
    fn other_content_than_the_hub_says_is_refused_and_not_kept() {
        let world = world(files(5000));
        world.hub.behave(|behaviour| behaviour.corrupt = true);
        let error = world.fails(NAME);
        let hash = sha256(&weights(5000));
        assert!(
            error.contains("SHA-256") && error.contains(&hash) && error.contains("nothing of it is kept"),
            "{error}"
        );
        assert!(names(&world.folder().join("blobs")).iter().all(|name| !name.starts_with(&hash)));
        assert_eq!(world.hub.sent_by_storage(), 5000, "it is not asked for again and again");
        world.hub.behave(|behaviour| behaviour.corrupt = false);
        world.get().unwrap();
    }

    #[test]
    fn what_was_left_of_something_else_is_replaced() {
        for left in [4000, 9000] {
            let world = world(files(5000));
            let partial = world.partial(&weights(5000));
            fs::create_dir_all(partial.parent().unwrap()).unwrap();
            fs::write(&partial, vec![7; left]).unwrap();
            let dir = world.get().unwrap();
            assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights(5000), "{left}");
        }
    }

    #[test]
    fn a_server_without_ranges_sends_everything_again() {
        let world = world(files(5000));
        world.hub.behave(|behaviour| (behaviour.no_ranges, behaviour.breaks) = (true, vec![3000]));
        let dir = world.get().unwrap();
        assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights(5000));
        assert_eq!(world.hub.sent_by_storage(), 8000);
    }

    #[test]
    fn failures_that_pass_are_waited_for_and_others_are_not() {
        let world = world(files(10));
        world.hub.behave(|behaviour| behaviour.unavailable = 3);
        world.get().unwrap();
        let world = super::downloads::world(files(10));
        world.hub.behave(|behaviour| behaviour.unavailable = 100);
        let error = world.fails(NAME);
        assert!(error.contains("status 503") && error.contains("`hf download org/tiny`"), "{error}");
        assert_eq!(world.hub.asked().len(), 5);
    }

    #[test]
    fn a_model_that_was_renamed_is_found_at_its_new_path() {
        let world = world(files(10));
        world.hub.behave(|behaviour| behaviour.moved = true);
        let dir = world.get().unwrap();
        assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights(10));
    }

    #[test]
    fn a_gated_model_says_that_its_licence_is_to_be_accepted_and_where_the_token_goes() {
        let mut world = world(files(10));
        world.hub.behave(|behaviour| behaviour.gated = Some("hf_right".to_owned()));
        let error = world.fails(NAME);
        let page = format!("accept its licence on {}/org/tiny", world.hub.endpoint());
        for part in [page.as_str(), "is gated", "HF_TOKEN", "`hf auth login`"] {
            assert!(error.contains(part), "no {part} in {error}");
        }
        world.environment.token = Some("hf_wrong".to_owned());
        let error = world.fails(NAME);
        assert!(error.contains(&page) && error.contains("the account of your token"), "{error}");
        assert!(!error.contains("hf_wrong"), "{error}");
        world.environment.token = Some("hf_right".to_owned());
        world.get().unwrap();
    }

    #[test]
    fn the_token_goes_to_the_hub_and_not_to_its_storage() {
        let mut world = world(files(10));
        let file = world.cache.path().join("token");
        fs::write(&file, "hf_of_a_file\n").unwrap();
        world.environment.token_file = Some(file.clone());
        world.get().unwrap();
        let asked = world.hub.asked();
        let (at_storage, at_hub): (Vec<_>, Vec<_>) = asked.iter().partition(|asked| asked.at_storage);
        assert!(!at_hub.is_empty() && at_hub.iter().all(|asked| asked.token.as_deref() == Some("hf_of_a_file")));
        assert!(!at_storage.is_empty() && at_storage.iter().all(|asked| asked.token.is_none()));
        fs::write(&file, "two\nlines").unwrap();
        fs::remove_dir_all(world.folder()).unwrap();
        let error = world.fails(NAME);
        assert!(error.contains("characters that no token has") && !error.contains("two"), "{error}");
    }

    #[test]
    fn a_model_that_is_not_there_is_named_with_the_revision() {
        let mut world = world(files(10));
        let error = world.fails("org/other");
        assert!(error.contains("no public model `org/other`") && error.contains("HF_TOKEN"), "{error}");
        world.environment.token = Some("hf_any".to_owned());
        let error = world.fails("org/other");
        assert!(error.contains("no model `org/other` at revision `main`"), "{error}");
        assert!(!world.cache.path().join("models--org--other").exists(), "nothing is made for it");
    }

    #[test]
    fn a_model_without_safetensors_says_what_it_has_and_downloads_nothing() {
        let mut files = files(10);
        files.retain(|(name, _)| *name != "model.safetensors");
        let world = world(files);
        let error = world.fails(NAME);
        assert!(error.contains("pytorch_model.bin, a pickle"), "{error}");
        assert_eq!(world.hub.asked().len(), 1);
    }

    #[test]
    fn without_a_network_or_where_it_is_forbidden_the_command_for_elsewhere_is_named() {
        let mut world = world(files(10));
        world.environment.offline = Some("HF_HUB_OFFLINE");
        let error = world.fails(NAME);
        assert!(error.contains("HF_HUB_OFFLINE") && error.contains("`hf download org/tiny`"), "{error}");
        let begun = world.folder().join("snapshots").join(COMMIT);
        fs::create_dir_all(&begun).unwrap();
        assert_eq!(world.get().unwrap(), begun, "whoever opens it says what it lacks");
        assert_eq!(world.hub.asked(), []);
        world.environment.offline = None;
        // Nobody listens at a port that was just given back.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        world.environment.endpoint = format!("http://{closed}");
        let error = world.fails(NAME);
        assert!(error.contains("there is no connection to 127.0.0.1"), "{error}");
        assert!(error.contains("`hf download org/tiny`"), "{error}");
        world.environment.endpoint = "hub".to_owned();
        assert!(world.fails(NAME).contains("HF_ENDPOINT: is `hub`"));
    }

    #[test]
    fn two_that_need_a_model_at_once_download_it_once() {
        let world = world(files(2_000_000));
        let start = Barrier::new(2);
        let dirs: Vec<PathBuf> = thread::scope(|scope| {
            let threads = [(); 2].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    world.get().unwrap()
                })
            });
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(dirs[0], dirs[1]);
        assert_eq!(fs::read(dirs[0].join("model.safetensors")).unwrap(), weights(2_000_000));
        assert_eq!(world.hub.sent_by_storage(), 2_000_000);
    }

    #[test]
    fn a_description_far_too_large_is_not_downloaded() {
        let mut files = files(10);
        files.retain(|(name, _)| *name != "config.json");
        files.push(("config.json", vec![b' '; (64 << 20) + 1]));
        let world = world(files);
        let error = world.fails(NAME);
        assert!(error.contains("config.json: 67108865 bytes are too many for a JSON description"), "{error}");
        assert!(world.hub.asked().iter().all(|asked| asked.method == "HEAD" || asked.path.contains("/api/")));
    }
}
