//! One thread that owns the model: pictures that wait for the same adapter go through it together.
//!
//! The oldest picture is always in the next turn, so that no adapter waits for ever behind a busier one. A turn that is not full
//! waits a moment for pictures that are being decoded, and never for requests that may not come.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use image::RgbImage;
use tokio::sync::oneshot;
use tracknet::inference::{FrameResult, Predictor};

use crate::metrics::Metrics;
use crate::problem::Problem;

/// How long a turn that is not full waits for pictures that are being decoded.
const MOMENT: Duration = Duration::from_millis(4);

/// What finds something on pictures.
pub(crate) trait Searcher: Send + Sync + 'static {
    /// What it finds.
    type Found: Send + 'static;

    /// Searches pictures together; each has a result of its own.
    fn search(&self, pictures: Vec<RgbImage>) -> tracknet::Result<Vec<tracknet::Result<Self::Found>>>;
}

impl Searcher for Predictor {
    type Found = FrameResult;

    fn search(&self, pictures: Vec<RgbImage>) -> tracknet::Result<Vec<tracknet::Result<FrameResult>>> {
        self.images(pictures)
    }
}

/// A picture that waits.
struct Job<S: Searcher> {
    searcher: Arc<S>,
    picture: RgbImage,
    answer: oneshot::Sender<Result<S::Found, Problem>>,
}

/// The queue before the model; its thread ends when the last clone is gone and everything is answered.
pub(crate) struct Batcher<S: Searcher> {
    jobs: Sender<Job<S>>,
    /// Pictures that are on their way into the queue.
    coming: Arc<AtomicUsize>,
}

/// A picture on its way into the queue; it stays one until this is dropped.
pub(crate) struct Coming(Arc<AtomicUsize>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<S: Searcher> Batcher<S> {
    /// Starts the thread, which takes up to `most` pictures a turn.
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn start(most: usize, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (jobs, waiting) = channel();
        let coming = Arc::new(AtomicUsize::new(0));
        let turns = Turns { waiting, most: most.max(1), coming: Arc::clone(&coming), metrics };
        std::thread::Builder::new().name("model".to_owned()).spawn(move || turns.run())?;
        Ok(Self { jobs, coming })
    }

    /// Says that a picture will come soon.
    pub(crate) fn announce(&self) -> Coming {
        self.coming.fetch_add(1, Ordering::SeqCst);
        Coming(Arc::clone(&self.coming))
    }

    /// Searches a picture in one of the next turns. It is left out if nobody waits any more when its turn comes.
    ///
    /// # Errors
    /// 500 for a picture on which the model fails.
    pub(crate) async fn search(
        &self,
        searcher: Arc<S>,
        picture: RgbImage,
        coming: Coming,
    ) -> Result<S::Found, Problem> {
        let (answer, found) = oneshot::channel();
        let gone = || Problem::internal("the model is gone");
        self.jobs.send(Job { searcher, picture, answer }).map_err(|_| gone())?;
        drop(coming);
        found.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// The side of the thread.
struct Turns<S: Searcher> {
    waiting: Receiver<Job<S>>,
    most: usize,
    coming: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl<S: Searcher> Turns<S> {
    fn run(self) {
        let mut queue = VecDeque::new();
        loop {
            if queue.is_empty() {
                match self.waiting.recv() {
                    Ok(job) => queue.push_back(job),
                    Err(_) => return,
                }
            }
            self.gather(&mut queue);
            let turn = take_turn(&mut queue, self.most);
            if !turn.is_empty() {
                self.metrics.turn(turn.len());
                answer(turn);
            }
        }
    }

    /// Takes what waits, and what comes within a moment.
    fn gather(&self, queue: &mut VecDeque<Job<S>>) {
        queue.extend(self.waiting.try_iter());
        let end = Instant::now() + MOMENT;
        while matching(queue) < self.most && self.coming.load(Ordering::SeqCst) > 0 {
            match self.waiting.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(job) => queue.push_back(job),
                Err(_) => break,
            }
        }
    }
}

/// How many wait for the same adapter as the first.
fn matching<S: Searcher>(queue: &VecDeque<Job<S>>) -> usize {
    let Some(first) = queue.front() else { return 0 };
    queue.iter().filter(|job| Arc::ptr_eq(&job.searcher, &first.searcher)).count()
}

/// Takes the first and up to `most` of those that wait for the same adapter, without those that nobody waits for.
fn take_turn<S: Searcher>(queue: &mut VecDeque<Job<S>>, most: usize) -> Vec<Job<S>> {
    queue.retain(|job| !job.answer.is_closed());
    let Some(first) = queue.front() else { return Vec::new() };
    let searcher = Arc::clone(&first.searcher);
    let (mut turn, mut rest) = (Vec::new(), VecDeque::with_capacity(queue.len()));
    for job in queue.drain(..) {
        if turn.len() < most && Arc::ptr_eq(&job.searcher, &searcher) { turn.push(job) } else { rest.push_back(job) }
    }
    *queue = rest;
    turn
}

/// Searches the pictures of a turn and answers all of them. A model that panics fails the turn, not the thread.
fn answer<S: Searcher>(turn: Vec<Job<S>>) {
    let Some(searcher) = turn.first().map(|job| Arc::clone(&job.searcher)) else { return };
    let (pictures, answers): (Vec<_>, Vec<_>) = turn.into_iter().map(|job| (job.picture, job.answer)).unzip();
    let found = match catch_unwind(AssertUnwindSafe(|| searcher.search(pictures))) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return fail(answers, &error.to_string()),
        Err(_) => return fail(answers, "the model failed"),
    };
    let mut found = found.into_iter();
    for answer in answers {
        let none = || Err(Problem::internal("the model gave nothing"));
        let result = found.next().map_or_else(none, |found| found.map_err(Problem::internal));
        // Whoever asked may have left.
        let _ = answer.send(result);
    }
}

fn fail<T>(answers: Vec<oneshot::Sender<Result<T, Problem>>>, reason: &str) {
    for answer in answers {
        let _ = answer.send(Err(Problem::internal(reason)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Finds the width of a picture; fails at 13 and panics at 99. Its first turn waits for the test.
    #[derive(Default)]
    struct Widths {
        turns: Mutex<Vec<Vec<u32>>>,
        gate: Mutex<()>,
    }

    impl Searcher for Widths {
        type Found = u32;

        fn search(&self, pictures: Vec<RgbImage>) -> tracknet::Result<Vec<tracknet::Result<u32>>> {
            let _open = self.gate.lock();
            let widths: Vec<u32> = pictures.iter().map(RgbImage::width).collect();
            self.turns.lock().unwrap().push(widths.clone());
            assert!(!widths.contains(&99), "asked to");
            let bad = || tracknet::inference::InferenceError::Picture("not finite".to_owned()).into();
            Ok(widths.into_iter().map(|width| if width == 13 { Err(bad()) } else { Ok(width) }).collect())
        }
    }

    struct Trial {
        runtime: tokio::runtime::Runtime,
        batcher: Arc<Batcher<Widths>>,
    }

    impl Trial {
        fn start(most: usize) -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
            let batcher = Arc::new(Batcher::start(most, Arc::new(Metrics::new())).unwrap());
            Self { runtime, batcher }
        }

        fn ask(&self, searcher: &Arc<Widths>, width: u32) -> tokio::task::JoinHandle<Result<u32, Problem>> {
            let (batcher, searcher) = (Arc::clone(&self.batcher), Arc::clone(searcher));
            let coming = batcher.announce();
            let before = batcher.coming.load(Ordering::SeqCst);
            let task =
                self.runtime.spawn(async move { batcher.search(searcher, RgbImage::new(width, 1), coming).await });
            // In the order of the calls.
            while self.batcher.coming.load(Ordering::SeqCst) >= before {
                std::thread::yield_now();
            }
            task
        }

        fn wait(&self, task: tokio::task::JoinHandle<Result<u32, Problem>>) -> Result<u32, u16> {
            self.runtime.block_on(task).unwrap().map_err(|problem| problem.status.as_u16())
        }
    }

    #[test]
    fn what_waits_for_the_same_adapter_goes_together_and_the_oldest_goes_first() {
        let trial = Trial::start(3);
        let [clay, grass] = [0, 1].map(|_| Arc::new(Widths::default()));
        let gate = clay.gate.lock().unwrap();
        let mut tasks = vec![(1, trial.ask(&clay, 1))];
        // The thread is in its first turn, behind the gate.
        std::thread::sleep(Duration::from_millis(50));
        for (searcher, width) in [(&grass, 2), (&clay, 3), (&grass, 4), (&grass, 5), (&clay, 6), (&grass, 7)] {
            tasks.push((width, trial.ask(searcher, width)));
        }
        drop(gate);
        for (width, task) in tasks {
            assert_eq!(trial.wait(task), Ok(width));
        }
        assert_eq!(*grass.turns.lock().unwrap(), [vec![2, 4, 5], vec![7]]);
        assert_eq!(*clay.turns.lock().unwrap(), [vec![1], vec![3, 6]]);
    }

    #[test]
    fn a_picture_that_fails_costs_only_its_own_answer_and_a_panic_only_its_turn() {
        let trial = Trial::start(3);
        let searcher = Arc::new(Widths::default());
        let gate = searcher.gate.lock().unwrap();
        let first = trial.ask(&searcher, 1);
        std::thread::sleep(Duration::from_millis(50));
        let tasks = [12, 13, 14, 99].map(|width| trial.ask(&searcher, width));
        drop(gate);
        let found = tasks.map(|task| trial.wait(task));
        assert_eq!(found, [Ok(12), Err(500), Ok(14), Err(500)]);
        assert_eq!(trial.wait(first), Ok(1));
        let after = trial.ask(&searcher, 7);
        assert_eq!(trial.wait(after), Ok(7));
    }

    #[test]
    fn nothing_is_searched_that_nobody_waits_for() {
        let trial = Trial::start(8);
        let searcher = Arc::new(Widths::default());
        let gate = searcher.gate.lock().unwrap();
        let first = trial.ask(&searcher, 1);
        std::thread::sleep(Duration::from_millis(50));
        let left = trial.ask(&searcher, 2);
        left.abort();
        let _ = trial.runtime.block_on(left);
        let last = trial.ask(&searcher, 3);
        drop(gate);
        assert_eq!([trial.wait(first), trial.wait(last)], [Ok(1), Ok(3)]);
        assert_eq!(*searcher.turns.lock().unwrap(), [vec![1], vec![3]]);
    }
}
