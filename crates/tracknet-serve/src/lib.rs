//! Trained runs behind HTTP: pictures and videos in, positions or overlays out.
//!
//! A request passes the front door (who may ask, what becomes of a panic, what is counted), reads its body within limits, and
//! waits in a bounded queue. One thread owns the model: it takes the pictures that wait for the same adapter in common forward
//! passes. Videos are kept on disk and searched in threads of their own, a few at once.
//!
//! Nothing is kept between requests but the adapters that were loaded, so that a server that is killed loses only answers that
//! it has not given. One that is asked to stop gives them all first.
//!
//! | module | what lives there |
//! |---|---|
//! | [`options`] | where to listen, limits, who may ask |
//! | `server`, `connections`, `patience` | the listener, connections, the graceful stop, peers that stall |
//! | `front` | what every request passes: token, host, panics, log, metrics |
//! | `routes`, `openapi` | the paths, and the document that describes them |
//! | `pictures`, `batcher` | pictures: decoding, the queue, common forward passes |
//! | `videos`, `search` | videos: the file, the thread, rows or an overlay back |
//! | `adapters`, `models` | the runs, and their adapters by name |
//! | `body`, `problem`, `metrics`, `log` | bodies within limits, errors as JSON, Prometheus, lines on standard error |

mod adapters;
mod batcher;
mod body;
mod connections;
mod front;
mod log;
mod metrics;
mod models;
mod openapi;
pub mod options;
mod patience;
mod pictures;
mod problem;
mod routes;
mod search;
mod server;
mod videos;

use std::net::SocketAddr;

pub use models::Model;
pub use options::{Limits, Options};
pub use server::Server;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is taken, not of this machine, or not allowed.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where it should listen.
        address: SocketAddr,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// Others could reach the server, and nothing keeps them out.
    #[error(
        "{address} can be reached from other machines: give a token of at least {} characters \
         (TRACKNET_TOKEN=… or --token), or listen on 127.0.0.1",
        options::SHORTEST_TOKEN
    )]
    NoToken {
        /// Where it should listen.
        address: SocketAddr,
    },
    /// A token that can be guessed, or that no header can carry.
    #[error("the token {0}")]
    Token(&'static str),
    /// No model to serve.
    #[error("there is no run to serve")]
    NoModel,
    /// Two runs of one name.
    #[error("two runs are called `{0}`: give one another name, as in other={0}")]
    ModelName(String),
    /// A name that a path of a URL cannot hold.
    #[error("`{0}` is no name: expected 1 to 64 letters, digits, `-`, `_` and `.`, not beginning with a dot")]
    Name(String),
    /// A folder for adapters that is none.
    #[error("{}: {cause}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
    /// Threads, sockets or temporary files cannot be had.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// An adapter or run is wrong.
    #[error(transparent)]
    Library(#[from] tracknet::Error),
}
