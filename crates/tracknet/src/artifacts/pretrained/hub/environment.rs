//! What the environment variables of Hugging Face's libraries say, as `huggingface_hub` documents them
//! (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where models are looked for, and how they are downloaded.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "most of it is about downloads"))]
pub(super) struct Environment {
    /// Cache directories in the order Hugging Face's libraries look, older names of the variables last. A download goes
    /// into the first.
    pub(super) caches: Vec<PathBuf>,
    /// The address of the hub, without a slash at its end.
    pub(super) endpoint: String,
    /// The token that a variable holds.
    pub(super) token: Option<String>,
    /// Where `hf auth login` leaves a token, which counts if no variable has one.
    pub(super) token_file: Option<PathBuf>,
    /// The variable that forbids the network.
    pub(super) offline: Option<&'static str>,
    /// Whether the progress of a download is shown.
    pub(super) progress: bool,
    /// Whether the variables of proxies count, such as `HTTPS_PROXY`.
    pub(super) proxy: bool,
    /// Certificates (PEM) that servers are checked against in place of Mozilla's.
    pub(super) certificates: Option<PathBuf>,
    /// How long the first pause after a failed request is; it doubles with each.
    pub(super) pause: Duration,
}

impl Environment {
    /// Reads variables through `variable`; an empty one counts as absent.
    pub(super) fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().trim().to_owned());
        let is_set = |name: &str| text(name).is_some_and(|value| is_true(&value));
        let home = variable("HOME").map(PathBuf::from);
        let path = |name: &str| variable(name).map(|value| expanded(PathBuf::from(value), home.as_deref()));
        let homes = [
            path("HF_HOME"),
            path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")),
            home.as_ref().map(|home| home.join(".cache/huggingface")),
        ];
        let token_file = path("HF_TOKEN_PATH").or_else(|| homes.iter().flatten().next().map(|home| home.join("token")));
        let own = [path("HF_HUB_CACHE"), path("HUGGINGFACE_HUB_CACHE")];
        let older = [path("TRANSFORMERS_CACHE"), path("PYTORCH_TRANSFORMERS_CACHE")];
        let mut caches: Vec<PathBuf> = Vec::new();
        for cache in own.into_iter().chain(homes.map(|home| home.map(|home| home.join("hub")))).chain(older).flatten() {
            if !caches.contains(&cache) {
                caches.push(cache);
            }
        }
        let implicit = !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN");
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            caches,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).filter(|_| implicit),
            token_file: token_file.filter(|_| implicit),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| is_set(name)),
            progress: !is_set("HF_HUB_DISABLE_PROGRESS_BARS"),
            proxy: true,
            certificates: path("SSL_CERT_FILE"),
            pause: Duration::from_secs(1),
        }
    }
}

/// What Hugging Face's libraries take for yes.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// A path whose leading `~` is the home directory, as Python's `expanduser` has it.
pub(super) fn expanded(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> Environment {
        Environment::of(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn caches_are_where_the_libraries_of_hugging_face_look() {
        let caches =
            |set: &[(&str, &str)]| of(set).caches.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(caches(&[("HOME", "/h")]), ["/h/.cache/huggingface/hub"]);
        assert_eq!(caches(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), ["/h/hf/hub", "/h/.cache/huggingface/hub"]);
        assert_eq!(caches(&[("HUGGINGFACE_HUB_CACHE", "/a"), ("HF_HUB_CACHE", "/a"), ("HF_HOME", "")]), ["/a"]);
        assert_eq!(caches(&[("HOME", "/h"), ("TRANSFORMERS_CACHE", "~")]), ["/h/.cache/huggingface/hub", "/h/"]);
        let all = [
            ("TRANSFORMERS_CACHE", "/t"),
            ("HOME", "/h"),
            ("XDG_CACHE_HOME", "/x"),
            ("HF_HOME", "/hf"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HUB_CACHE", "/a"),
        ];
        let expected = ["/a", "/b", "/hf/hub", "/x/huggingface/hub", "/h/.cache/huggingface/hub", "/t"];
        assert_eq!(caches(&all), expected);
    }

    #[test]
    fn the_token_is_that_of_the_variable_or_of_the_file_of_a_login() {
        let home = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(of(&home).token, None);
        assert_eq!(of(&home).token_file.unwrap(), Path::new("/x/huggingface/token"));
        assert_eq!(of(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/x")]).token_file.unwrap(), Path::new("/hf/token"));
        assert_eq!(of(&[("HF_TOKEN_PATH", "/t"), ("HF_HOME", "/hf")]).token_file.unwrap(), Path::new("/t"));
        let both = [("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", " hf_new\n")];
        assert_eq!(of(&both).token.unwrap(), "hf_new");
        assert_eq!(of(&both[..1]).token.unwrap(), "hf_old");
        let disabled = of(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_TOKEN", "hf_new"), ("HOME", "/h")]);
        assert!(disabled.token.is_none() && disabled.token_file.is_none());
    }

    #[test]
    fn switches_are_read_as_pythons_libraries_read_them() {
        for (value, expected) in [("1", true), ("TRUE", true), ("On", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).offline.is_some(), expected, "{value}");
            assert_eq!(of(&[("HF_HUB_DISABLE_PROGRESS_BARS", value)]).progress, !expected, "{value}");
        }
        assert_eq!(of(&[("TRANSFORMERS_OFFLINE", "1")]).offline, Some("TRANSFORMERS_OFFLINE"));
        assert_eq!(of(&[]).endpoint, "https://huggingface.co");
        assert_eq!(of(&[("HF_ENDPOINT", "http://127.0.0.1:1/hub/")]).endpoint, "http://127.0.0.1:1/hub");
    }
}
