//! From the hub into its cache, as `huggingface_hub` lays it out (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>),
//! so that both find what the other downloaded:
//!
//! ```text
//! CACHE/models--ORG--NAME/blobs/ETAG                        the content, named by its hash
//!                         blobs/ETAG.incomplete             as much of it as has come
//!                         snapshots/COMMIT/FILE             → ../../blobs/ETAG
//!                         refs/main                         the commit
//! CACHE/.locks/models--ORG--NAME/ETAG.lock                  held by whoever downloads it
//! ```
//!
//! A content has its name only when it is whole, and `refs/main` names a commit only when all of a model is there.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::console::{note, say};
use crate::error::{IoContext, Result};
use crate::files::directory::hash_file;
use crate::files::{FileError, Limit, PathLock, free_bytes, read, read_bytes, write_atomic};
use crate::models::ModelError;
use crate::models::memory::bytes;

use super::super::checkpoint::CONFIG_FILE;
use super::super::foreign::{Lacks, describe_names, is_there};
use super::super::index::ShardIndex;
use super::super::preprocessing::{PREPROCESSOR_FILE, PROCESSOR_FILE};
use super::super::weights::{INDEX, INDEX_FILE, SINGLE_FILE};
use super::client::{Client, Remote, is_plain};
use super::environment::Environment;
use super::failure::Failure;
use super::progress::Progress;
use super::{KEY, folder_of};

/// Downloads what a model is built from: `config.json`, what says how pictures are normalized, and the weights in
/// safetensors files. Never a pickle. Gives the directory of the revision.
///
/// # Errors
/// No connection, a refusal of the hub, a model without these files, content that is not what the hub says it is, a full
/// disk or a cache that cannot be written: what happened and what to do.
pub(super) fn download(name: &str, environment: &Environment) -> Result<PathBuf> {
    let Some(cache) = environment.caches.first() else {
        let message = "is a hub id, and there is no cache to download it into: HF_HOME or HOME must name a directory";
        return Err(ModelError::key(KEY, format!("`{name}` {message}")).into());
    };
    let client = Client::new(environment)?;
    let explained = |failure: &Failure| {
        ModelError::key(KEY, failure.explain(name, &environment.endpoint, client.has_token())).into()
    };
    let listing = client.listing(name).map_err(|failure| explained(&failure))?;
    if !is_plain(&listing.sha) {
        let found = format!("`{}` for a commit", listing.sha);
        return Err(explained(&Failure::strange(&environment.endpoint, found)));
    }
    let names: Vec<String> = listing.siblings.into_iter().map(|sibling| sibling.name).collect();
    let folder = cache.join(folder_of(name));
    let place = Place {
        client: &client,
        name,
        commit: &listing.sha,
        snapshot: folder.join("snapshots").join(&listing.sha),
        locks: cache.join(".locks").join(folder_of(name)),
        folder,
        endpoint: &environment.endpoint,
        progress: environment.progress,
        explained: &explained,
    };
    place.model(names)?;
    let main = place.folder.join("refs/main");
    write_atomic(&main, |out| out.write_all(listing.sha.as_bytes()))?;
    Ok(place.snapshot)
}

/// Where a commit of a model goes.
struct Place<'a> {
    client: &'a Client,
    name: &'a str,
    commit: &'a str,
    folder: PathBuf,
    snapshot: PathBuf,
    locks: PathBuf,
    endpoint: &'a str,
    progress: bool,
    explained: &'a dyn Fn(&Failure) -> crate::Error,
}

impl Place<'_> {
    /// Downloads what the hub has of a model; `names` are the files of the commit.
    fn model(&self, mut names: Vec<String>) -> Result<()> {
        names.sort();
        let has = |file: &str| names.iter().any(|name| name == file);
        let lacks = |lacks| {
            let message = format!("{} {}", self.name, describe_names(&names, lacks));
            Err(ModelError::key(KEY, format!("on the hub, {message}")).into())
        };
        if !has(CONFIG_FILE) {
            return lacks(Lacks::Config);
        }
        if !has(SINGLE_FILE) && !has(INDEX_FILE) {
            return lacks(Lacks::Weights);
        }
        say(format_args!("downloading {} from {} to {}", self.name, self.endpoint, self.folder.display()));
        for file in [CONFIG_FILE, PREPROCESSOR_FILE, PROCESSOR_FILE].into_iter().filter(|file| has(file)) {
            self.file(file, read::JSON)?;
        }
        if has(SINGLE_FILE) {
            return self.file(SINGLE_FILE, read::TENSORS);
        }
        self.file(INDEX_FILE, INDEX)?;
        let index = self.snapshot.join(INDEX_FILE);
        let parsed = ShardIndex::parse(&read_bytes(&index, INDEX)?).map_err(|e| ModelError::file(&index, e))?;
        parsed.files().into_iter().try_for_each(|shard| self.file(shard, read::TENSORS))
    }

    /// Downloads a file of the commit, unless it is there.
    fn file(&self, file: &str, limit: Limit) -> Result<()> {
        let link = self.snapshot.join(file);
        if fs::exists(&link).at(&link)? {
            return Ok(());
        }
        let failed = |failure: Failure| (self.explained)(&failure);
        let remote = self.client.describe(self.name, self.commit, file).map_err(failed)?;
        if remote.size > limit.bytes {
            let (path, size, kind, limit) = (link, remote.size, limit.kind, limit.bytes);
            return Err(FileError::TooLarge { path, size, kind, limit }.into());
        }
        let blob = self.folder.join("blobs").join(&remote.etag);
        let _lock = PathLock::wait(&self.locks.join(format!("{}.lock", remote.etag)), || {
            note(format_args!("{file} is being downloaded by another process: waiting for it"));
        })?;
        if !is_there(&blob)? {
            self.blob(file, &remote, &blob)?;
        }
        point(&link, &blob)
    }

    /// Downloads a content under its name. The caller holds its lock.
    fn blob(&self, file: &str, remote: &Remote, blob: &Path) -> Result<()> {
        let directory = self.folder.join("blobs");
        fs::create_dir_all(&directory).at(&directory)?;
        let partial = directory.join(format!("{}.incomplete", remote.etag));
        let mut out =
            File::options().read(true).write(true).create(true).truncate(false).open(&partial).at(&partial)?;
        let begun = out.metadata().at(&partial)?.len();
        let needed = remote.size.saturating_sub(begun);
        if let Some(free) = free_bytes(&directory).filter(|free| *free < needed) {
            let [needed, free] = [needed, free].map(|n| bytes(n as usize));
            let message = format!("{file} of {} needs {needed}, and {free} are free here", self.name);
            return Err(ModelError::file(directory, message).into());
        }
        let found = self.content(file, remote, &mut out, &partial)?;
        let found = match found {
            // What was there before may be of something else.
            Some(_) if begun > 0 => {
                out.set_len(0).at(&partial)?;
                self.content(file, remote, &mut out, &partial)?
            }
            found => found,
        };
        if let Some(found) = found {
            fs::remove_file(&partial).at(&partial)?;
            let url = remote.url.clone();
            let found = format!("a content of {} bytes with SHA-256 {found}, not {}", remote.size, remote.etag);
            return Err((self.explained)(&Failure::Wrong { url, found }));
        }
        out.sync_all().at(&partial)?;
        fs::rename(&partial, blob).at(blob)?;
        Ok(())
    }

    /// Downloads what `partial`, which is open as `out`, lacks; gives the hash of the content if it is another than the hub
    /// says.
    fn content(&self, file: &str, remote: &Remote, out: &mut File, partial: &Path) -> Result<Option<String>> {
        let mut progress = Progress::new(file, remote.size, self.progress);
        self.client.fill(remote, out, &mut progress).map_err(|failure| match failure {
            Failure::Disk(cause) => FileError::Io { path: partial.to_path_buf(), cause }.into(),
            failure => (self.explained)(&failure),
        })?;
        drop(progress);
        let Some(expected) = remote.sha256() else { return Ok(None) };
        let found = hash_file(partial).at(partial)?;
        Ok(Some(found).filter(|found| !found.eq_ignore_ascii_case(expected)))
    }
}

/// Makes `link`, a file of a snapshot, lead to a content; where there are no links, a copy of it.
fn point(link: &Path, blob: &Path) -> Result<()> {
    let directory = crate::files::parent_of(link);
    fs::create_dir_all(directory).at(directory)?;
    // A link of an earlier try that leads nowhere any more.
    if link.is_symlink() && !link.exists() {
        fs::remove_file(link).at(link)?;
    }
    let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
    match symlink(&target, link) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()), // By another process.
        Err(_) => Ok(crate::files::write_file_atomic(link, |path| fs::copy(blob, path).at(path).map(drop))?),
        Ok(()) => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Links need rights on other systems.
#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
