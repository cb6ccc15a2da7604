//! Bodies that come in within limits of size and time, and those that go out as they are made.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::problem::Problem;

/// What a body may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// The most bytes.
    pub(crate) bytes: u64,
    /// How long the whole may take.
    pub(crate) patience: Duration,
    /// How much longer for each mebibyte that came, for bodies that may be long.
    pub(crate) per_mebibyte: Duration,
}

impl Allowance {
    /// # Errors
    /// 413 for a body that says that it is too large.
    pub(crate) fn guard(self, headers: &HeaderMap, body: Body) -> Result<Body, Problem> {
        if declared_length(headers).is_some_and(|length| length > self.bytes) {
            return Err(self.too_large());
        }
        let started = Instant::now();
        let alarm = Box::pin(sleep_until(started + self.patience));
        Ok(Body::new(Guarded { inner: body, allowance: self, read: 0, started, alarm }))
    }

    fn too_large(self) -> Problem {
        Problem::too_large(format_args!("the body has more than {} bytes", self.bytes))
    }
}

/// The length that a request says its body has.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body that ends with a [`Problem`] where it becomes too large or too slow.
struct Guarded {
    inner: Body,
    allowance: Allowance,
    read: u64,
    started: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let allowance = self.allowance;
            let mebibytes = u32::try_from(self.read >> 20).unwrap_or(u32::MAX);
            let end = self.started + allowance.patience + allowance.per_mebibyte.saturating_mul(mebibytes);
            if self.alarm.deadline() != end {
                self.alarm.as_mut().reset(end);
            }
            ready!(self.alarm.as_mut().poll(cx));
            let slow = format_args!("the body is too slow: {} bytes in {:?}", self.read, self.started.elapsed());
            return Poll::Ready(Some(Err(axum::Error::new(Problem::slow(slow)))));
        };
        if let Some(Ok(frame)) = &frame {
            self.read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if self.read > self.allowance.bytes {
                return Poll::Ready(Some(Err(axum::Error::new(self.allowance.too_large()))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The next bytes of a body; `None` at its end.
///
/// # Errors
/// What [`Allowance::guard`] says, or 400 for a body that breaks off.
pub(crate) async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Problem::of_body(&error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                // Trailers are nobody's business.
                _ => {}
            },
        }
    }
}

/// A whole body.
///
/// # Errors
/// As [`next`].
pub(crate) async fn whole(mut body: Body) -> Result<Bytes, Problem> {
    let mut bytes: Vec<u8> = Vec::with_capacity(body.size_hint().exact().unwrap_or(0) as usize);
    while let Some(more) = next(&mut body).await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes.into())
}

/// A body of which the rest can be read after its owner let it go: a client that is still sending when it is refused would
/// otherwise see a broken connection in place of the reason.
#[derive(Clone)]
pub(crate) struct SharedBody(Arc<Mutex<Body>>);

impl SharedBody {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// Reads on to the end, or as long as the limits allow.
    pub(crate) async fn drain(self, most: u64, patience: Duration) {
        let mut read = 0;
        let mut body = Body::new(self);
        let drained = async {
            while let Ok(Some(data)) = next(&mut body).await {
                read += data.len() as u64;
                if read > most {
                    return;
                }
            }
        };
        let _late = tokio::time::timeout(patience, drained).await;
    }

    fn with<T>(&self, then: impl FnOnce(&mut Body) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

/// A piece of a body that is made while it is sent.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// There is no more; a body that ends without was not whole, and its connection breaks off.
    End,
}

/// A body that is made while it is sent. `_keep` lives as long as somebody reads.
pub(crate) struct Streamed<K> {
    pub(crate) pieces: Receiver<Piece>,
    pub(crate) _keep: K,
}

impl<K: Unpin> HttpBody for Streamed<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Piece::End) => None,
            None => Some(Err(axum::Error::new(Problem::internal("the answer broke off")))),
        })
    }
}

/// A temporary file that a body is written into.
pub(crate) struct Spool {
    file: Option<std::fs::File>,
    path: PathBuf,
    waiting: Vec<u8>,
    written: u64,
}

impl Spool {
    /// Bytes that are collected before they are written.
    const AT_ONCE: usize = 1 << 20;

    pub(crate) fn new(file: std::fs::File, path: PathBuf) -> Self {
        Self { file: Some(file), path, waiting: Vec::new(), written: 0 }
    }

    /// # Errors
    /// 507 for a full disk, 500 for one that fails.
    pub(crate) async fn push(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= Self::AT_ONCE { self.write().await } else { Ok(()) }
    }

    /// Writes the rest; returns how many bytes the file has.
    ///
    /// # Errors
    /// As [`Spool::push`].
    pub(crate) async fn finish(mut self) -> Result<u64, Problem> {
        self.write().await?;
        Ok(self.written)
    }

    async fn write(&mut self) -> Result<(), Problem> {
        let (file, bytes) = (self.file.take(), std::mem::take(&mut self.waiting));
        let length = bytes.len() as u64;
        let work = move || {
            let mut file = file.ok_or_else(|| std::io::Error::other("closed"))?;
            std::io::Write::write_all(&mut file, &bytes).map(|()| file)
        };
        let written = tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        self.file = Some(written.map_err(|error| unwritten(&self.path, &error))?);
        self.written += length;
        Ok(())
    }
}

fn unwritten(path: &std::path::Path, error: &std::io::Error) -> Problem {
    let folder = path.parent().unwrap_or(path).display();
    if error.kind() == std::io::ErrorKind::StorageFull {
        let status = axum::http::StatusCode::INSUFFICIENT_STORAGE;
        return Problem::other(status, "disk_full", "there is no room for the video");
    }
    Problem::internal(format_args!("the video cannot be kept in {folder}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn allowance(bytes: u64, patience: Duration) -> Allowance {
        Allowance { bytes, patience, per_mebibyte: Duration::ZERO }
    }

    /// A body whose chunks come from a channel.
    fn streamed() -> (tokio::sync::mpsc::Sender<Piece>, Body) {
        let (sender, pieces) = tokio::sync::mpsc::channel(8);
        (sender, Body::new(Streamed { pieces, _keep: () }))
    }

    fn data(text: &'static str) -> Piece {
        Piece::Data(Bytes::from(text))
    }

    #[test]
    fn an_answer_that_nobody_ended_is_not_whole() {
        run(async {
            let (sender, body) = streamed();
            sender.send(data("1")).await.unwrap();
            sender.send(Piece::End).await.unwrap();
            assert_eq!(whole(body).await.unwrap(), "1");
            let (sender, body) = streamed();
            sender.send(data("1")).await.unwrap();
            drop(sender);
            assert_eq!(whole(body).await.unwrap_err().status.as_u16(), 500);
        });
    }

    #[test]
    fn a_body_ends_where_it_becomes_too_large_whether_it_says_so_or_not() {
        run(async {
            let limit = allowance(5, Duration::from_secs(5));
            let body = limit.guard(&HeaderMap::new(), Body::from("12345")).unwrap();
            assert_eq!(whole(body).await.unwrap(), "12345");
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, "6".parse().unwrap())]);
            assert_eq!(limit.guard(&headers, Body::from("123456")).unwrap_err().status.as_u16(), 413);
            let (sender, body) = streamed();
            let body = limit.guard(&HeaderMap::new(), body).unwrap();
            for chunk in ["1234", "56"] {
                sender.send(data(chunk)).await.unwrap();
            }
            let problem = whole(body).await.unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.detail.as_str()), (413, "the body has more than 5 bytes"));
        });
    }

    #[test]
    fn a_body_that_does_not_come_is_not_waited_for() {
        run(async {
            let (sender, body) = streamed();
            let body = allowance(100, Duration::from_millis(50)).guard(&HeaderMap::new(), body).unwrap();
            sender.send(data("12345")).await.unwrap();
            let problem = whole(body).await.unwrap_err();
            assert_eq!(problem.status.as_u16(), 408);
            assert!(problem.detail.contains("5 bytes"), "{problem}");
        });
    }

    #[test]
    fn the_rest_of_a_body_can_be_read_by_another_and_not_more_than_allowed() {
        run(async {
            let (sender, body) = streamed();
            let shared = SharedBody::new(body);
            let mut reader = Body::new(shared.clone());
            sender.send(data("12345")).await.unwrap();
            assert_eq!(next(&mut reader).await.unwrap().unwrap(), "12345");
            drop(reader);
            sender.send(data("123456")).await.unwrap();
            shared.drain(5, Duration::from_secs(60)).await;
            assert!(sender.is_closed());
        });
    }
}
