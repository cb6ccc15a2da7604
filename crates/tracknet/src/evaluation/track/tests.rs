//! The tracker on made-up trajectories with known noise, misses and false alarms. Frames are 1280×720.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use tracknet_random::Stream;

use super::*;

const SIZE: [usize; 2] = [1280, 720];

/// The largest distance of a hit: 4 pixels at 512×288.
const HIT: f32 = 10.0;

/// Where the ball is on each frame; `None` = not to be seen.
type Truth = Vec<Option<[f32; 2]>>;

fn found(x: f32, y: f32, score: f32) -> Detection {
    Detection { x, y, score }
}

fn frame(candidates: Vec<Detection>) -> TrackFrame {
    TrackFrame { candidates, size: SIZE, change: Change::Next, skipped: 0 }
}

fn with_change(change: Change, candidates: Vec<Detection>) -> TrackFrame {
    TrackFrame { change, ..frame(candidates) }
}

fn track_with(options: TrackOptions, frames: impl IntoIterator<Item = TrackFrame>) -> Vec<Option<Tracked>> {
    let mut tracker = Tracker::new(options).unwrap();
    let mut decided: Vec<_> = frames.into_iter().flat_map(|frame| tracker.push(frame)).collect();
    decided.extend(tracker.finish());
    decided
}

fn track(frames: impl IntoIterator<Item = TrackFrame>) -> Vec<Option<Tracked>> {
    track_with(TrackOptions::default(), frames)
}

/// A rally at 25 frames a second: flights in parabolas from end to end, a bounce in each, a hit at each end.
fn rally(frames: usize, random: &mut Stream) -> Truth {
    let mut truth = Vec::with_capacity(frames);
    let mut at = [random.range(400.0, 800.0), 560.0];
    let mut is_near = true;
    while truth.len() < frames {
        let to =
            [random.range(350.0, 900.0), if is_near { random.range(140.0, 200.0) } else { random.range(480.0, 600.0) }];
        let steps = random.range(18.0, 30.0) as usize;
        let (bounce, height) = ((steps as f32 * random.range(0.6, 0.8)) as usize, random.range(60.0, 120.0));
        for step in 0..steps {
            let share = step as f32 / steps as f32;
            // Above the ground by a parabola before the bounce and a lower one after it.
            let (part, rise) = if step < bounce {
                (step as f32 / bounce as f32, height)
            } else {
                ((step - bounce) as f32 / (steps - bounce) as f32, 0.4 * height)
            };
            let ground = [0, 1].map(|axis| at[axis] + share * (to[axis] - at[axis]));
            truth.push(Some([ground[0], ground[1] - 4.0 * rise * part * (1.0 - part)]));
        }
        (at, is_near) = (to, !is_near);
    }
    truth.truncate(frames);
    truth
}

/// How a detector fails.
#[derive(Clone, Copy)]
struct Faults {
    /// Share of frames whose ball is no candidate at all.
    missed: f32,
    /// Share of balls whose score is low.
    faint: f32,
    /// False alarms a frame, at random places.
    alarms: f32,
    /// Whether a logo is found on most frames.
    logo: bool,
    /// Whether a player's shoe is found on most frames, with low scores.
    shoe: bool,
}

const NO_FAULTS: Faults = Faults { missed: 0.0, faint: 0.0, alarms: 0.0, logo: false, shoe: false };

/// What a detector with these faults finds, the highest score first.
fn detect(truth: &Truth, faults: Faults, random: &mut Stream) -> Vec<TrackFrame> {
    let candidates = |(index, ball): (usize, &Option<[f32; 2]>)| {
        let mut candidates = Vec::new();
        let noise = |random: &mut Stream| 2.0 * random.truncated_normal() as f32;
        if let (Some([x, y]), false) = (ball, random.chance(faults.missed)) {
            let score = if random.chance(faults.faint) { random.range(0.1, 0.5) } else { random.range(0.6, 1.0) };
            candidates.push(found(x + noise(random), y + noise(random), score));
        }
        for _ in 0..2 {
            if random.chance(faults.alarms / 2.0) {
                let score = random.range(0.1, 0.95);
                candidates.push(found(random.range(0.0, 1280.0), random.range(0.0, 720.0), score));
            }
        }
        if faults.logo && random.chance(0.9) {
            candidates.push(found(1100.0 + noise(random) / 4.0, 90.0, random.range(0.6, 0.98)));
        }
        if faults.shoe && random.chance(0.8) {
            let x = 640.0 + 150.0 * (index as f32 / 40.0).sin();
            candidates.push(found(x + noise(random), 620.0 + noise(random), random.range(0.1, 0.6)));
        }
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        frame(candidates)
    };
    truth.iter().enumerate().map(candidates).collect()
}

/// F1 of what was found, by the field's counts.
fn f1(truth: &Truth, found: &[Option<Detection>]) -> f64 {
    assert_eq!(truth.len(), found.len());
    let (mut hits, mut wrong, mut missed) = (0, 0, 0);
    for (ball, found) in truth.iter().zip(found) {
        match (ball, found) {
            (Some([x, y]), Some(found)) if (found.x - x).hypot(found.y - y) <= HIT => hits += 1,
            (_, Some(_)) => wrong += 1,
            (Some(_), None) => missed += 1,
            (None, None) => {}
        }
    }
    f64::from(2 * hits) / f64::from((2 * hits + wrong + missed).max(1))
}

/// F1 without tracking (the best candidate from score 0.5 on) and with it.
fn before_and_after(truth: &Truth, frames: Vec<TrackFrame>, options: &TrackOptions) -> [f64; 2] {
    let best = |frame: &TrackFrame| frame.candidates.first().copied().filter(|found| found.score >= 0.5);
    let before: Vec<_> = frames.iter().map(best).collect();
    let after: Vec<_> =
        track_with(options.clone(), frames).into_iter().map(|tracked| tracked.map(|t| t.detection)).collect();
    [f1(truth, &before), f1(truth, &after)]
}

/// Rallies of 300 frames, in which no ball is to be seen for a while.
fn rallies(count: u64) -> Vec<(Truth, Stream)> {
    let rally = |seed| {
        let mut random = Stream::keyed(&[14, seed]);
        let mut truth = rally(300, &mut random);
        truth[200..240].fill(None);
        (truth, random)
    };
    (0..count).map(rally).collect()
}

/// Mean F1 before and after, over eight rallies.
fn mean(faults: Faults, options: &TrackOptions) -> [f64; 2] {
    let rallies = rallies(8);
    let mut sums = [0.0; 2];
    for (truth, mut random) in rallies.clone() {
        let frames = detect(&truth, faults, &mut random);
        let scores = before_and_after(&truth, frames, options);
        sums = [sums[0] + scores[0], sums[1] + scores[1]];
    }
    sums.map(|sum| sum / rallies.len() as f64)
}

#[test]
fn tracking_raises_f1_where_a_detector_fails_and_lowers_it_nowhere() {
    let options = TrackOptions::default();
    for (name, faults, least) in [
        ("misses", Faults { missed: 0.1, ..NO_FAULTS }, 0.965),
        ("faint balls", Faults { faint: 0.3, ..NO_FAULTS }, 0.945),
        ("false alarms", Faults { alarms: 0.6, ..NO_FAULTS }, 0.990),
        ("a logo", Faults { logo: true, ..NO_FAULTS }, 0.995),
        ("all", Faults { missed: 0.08, faint: 0.2, alarms: 0.5, logo: true, shoe: true }, 0.930),
        ("a weak detector", Faults { missed: 0.3, faint: 0.3, alarms: 0.5, logo: true, shoe: false }, 0.775),
        ("a shoe", Faults { shoe: true, ..NO_FAULTS }, 0.990),
        ("a shoe and misses", Faults { missed: 0.2, shoe: true, ..NO_FAULTS }, 0.930),
    ] {
        let [before, after] = mean(faults, &options);
        assert!(after >= least && after > before, "{name}: {before:.3} → {after:.3}");
    }
    // Gaps that are filled are filled rightly.
    let faults = Faults { missed: 0.1, ..NO_FAULTS };
    let [open, filled] =
        [0, options.max_gap].map(|max_gap| mean(faults, &TrackOptions { max_gap, ..options.clone() })[1]);
    assert!(filled > open + 0.02, "{open:.3} → {filled:.3}");
    // Nothing to repair: nothing is lost.
    for (truth, mut random) in rallies(8) {
        let frames = detect(&truth, NO_FAULTS, &mut random);
        let scores = before_and_after(&truth, frames, &options);
        assert!(scores[1] >= scores[0], "{scores:?}");
    }
}

/// A ball in free flight on the frames of `range`.
fn flight(range: std::ops::Range<usize>) -> Vec<[f32; 2]> {
    range.map(|t| t as f32).map(|t| [200.0 + 12.0 * t, 500.0 - 20.0 * t + 0.5 * t * t]).collect()
}

fn ball([x, y]: [f32; 2]) -> Detection {
    found(x, y, 0.9)
}

fn places(decided: &[Option<Tracked>]) -> Vec<Option<[f32; 2]>> {
    decided.iter().map(|tracked| tracked.map(|tracked| [tracked.detection.x, tracked.detection.y])).collect()
}

fn sources(decided: &[Option<Tracked>]) -> String {
    let letter =
        |tracked: &Option<Tracked>| tracked.map_or('-', |t| if t.source == TrackSource::Filled { 'f' } else { 'd' });
    decided.iter().map(letter).collect()
}

#[test]
fn what_was_measured_is_given_as_it_was_measured_and_a_brighter_false_alarm_is_passed_over() {
    let flight = flight(0..20);
    let mut frames: Vec<TrackFrame> = flight.iter().map(|xy| frame(vec![ball(*xy)])).collect();
    for (index, x) in [(6, 1100.0), (7, 90.0), (13, 700.0)] {
        frames[index].candidates.insert(0, found(x, 100.0, 0.99));
    }
    let decided = track(frames);
    assert_eq!(places(&decided), flight.into_iter().map(Some).collect::<Vec<_>>());
    assert_eq!(sources(&decided), "d".repeat(20));
}

#[test]
fn bounces_and_hits_end_no_track() {
    let bounce = |t: f32| [200.0 + 15.0 * t, 500.0 - 14.0 * (t - 9.0).abs()];
    let hit = |t: f32| [if t < 9.0 { 200.0 + 30.0 * t } else { 740.0 - 30.0 * t }, 300.0];
    for path in [bounce, hit] {
        let truth: Truth = (0..20).map(|t| Some(path(t as f32))).collect();
        let decided = track(truth.iter().flatten().map(|[x, y]| frame(vec![found(*x, *y, 0.55)])));
        assert_eq!(places(&decided), truth);
    }
}

#[test]
fn a_short_gap_in_free_flight_is_filled_and_said_to_be() {
    let flight = flight(0..24);
    let seen = |gap: std::ops::Range<usize>| -> Vec<TrackFrame> {
        let hidden =
            |(index, xy): (usize, &[f32; 2])| frame(if gap.contains(&index) { vec![] } else { vec![ball(*xy)] });
        flight.iter().enumerate().map(hidden).collect()
    };
    let decided = track(seen(10..13));
    assert_eq!(sources(&decided), "ddddddddddfffddddddddddd");
    for (found, [x, y]) in decided.iter().flatten().zip(&flight) {
        assert!((found.detection.x - x).abs() < 0.01 && (found.detection.y - y).abs() < 0.01, "{found:?}");
    }
    assert_eq!(sources(&track(seen(10..15))), "dddddddddd-----ddddddddd");
    let options = |max_gap| TrackOptions { max_gap, ..TrackOptions::default() };
    assert_eq!(sources(&track_with(options(5), seen(10..15))), "ddddddddddfffffddddddddd");
    assert_eq!(sources(&track_with(options(0), seen(10..12))), "dddddddddd--dddddddddddd");
    // What the model saw faintly where the ball must be was measured.
    let mut faint = seen(10..13);
    faint[11].candidates.push(found(flight[11][0] + 1.0, flight[11][1], 0.02));
    let decided = track(faint);
    assert_eq!(sources(&decided), "ddddddddddfdfddddddddddd");
    assert_eq!(decided[11].unwrap().detection.x, flight[11][0] + 1.0);
}

#[test]
fn a_gap_over_a_bounce_and_one_before_another_ball_stay_open() {
    let bounce = |t: f32| [200.0 + 12.0 * t, 500.0 - 20.0 * (t - 10.0).abs()];
    let elsewhere = |t: f32| [200.0 + 12.0 * t + if t > 10.0 { 150.0 } else { 0.0 }, 400.0];
    for path in [bounce, elsewhere] {
        let hidden = |t: usize| if (9..12).contains(&t) { vec![] } else { vec![ball(path(t as f32))] };
        assert_eq!(sources(&track((0..22).map(|t| frame(hidden(t))))), "ddddddddd---dddddddddd");
    }
}

#[test]
fn what_never_moves_is_dropped_while_a_ball_moves_and_after_and_kept_where_nothing_moves() {
    let lying = found(900.0, 600.0, 0.97);
    let still = track((0..60).map(|_| frame(vec![lying])));
    assert_eq!(sources(&still), "d".repeat(60));
    // A ball that comes and goes beside it; on the frames after, only what lies there is found.
    let flight = flight(0..40);
    let both = (0..60).map(|t| {
        let moving = flight.get(t).map(|[x, y]| found(*x, *y, 0.7));
        frame([Some(lying), moving].into_iter().flatten().collect())
    });
    let decided = track(both);
    assert_eq!(places(&decided[..40]), flight.into_iter().map(Some).collect::<Vec<_>>());
    assert!(decided[40..].iter().all(Option::is_none), "{}", sources(&decided));
}

#[test]
fn a_ball_that_is_held_before_it_is_thrown_is_kept() {
    let held = (0..30).map(|_| [300.0, 400.0]);
    let path: Vec<[f32; 2]> = held.chain((1..25).map(|t| [300.0 + 20.0 * t as f32, 400.0 - 8.0 * t as f32])).collect();
    let decided = track(path.iter().map(|xy| frame(vec![ball(*xy)])));
    assert_eq!(places(&decided), path.into_iter().map(Some).collect::<Vec<_>>());
}

#[test]
fn repeated_pictures_are_no_standing_ball_and_get_what_they_show() {
    // 25 pictures a second in 50 frames, and 25 in 30.
    for period in [2, 6] {
        let mut frames = Vec::new();
        let mut expected = Vec::new();
        for xy in flight(0..24) {
            frames.push(frame(vec![ball(xy)]));
            expected.push(Some(xy));
            if frames.len() % period == period - 1 {
                let own = [xy[0] + 0.5, xy[1]];
                frames.push(with_change(Change::Repeated, vec![ball(own)]));
                expected.push(Some(own));
            }
        }
        // Missed on a picture and its repetition.
        let hidden = [22, 23];
        hidden.iter().for_each(|index: &usize| frames[*index].candidates.clear());
        let options = TrackOptions { fps: 25.0 * frames.len() as f64 / 24.0, ..TrackOptions::default() };
        let decided = track_with(options, frames);
        for (index, (decided, expected)) in decided.iter().zip(&expected).enumerate() {
            let (decided, [x, y]) = (decided.unwrap(), expected.unwrap());
            assert_eq!(decided.source == TrackSource::Filled, hidden.contains(&index), "{period} {index}");
            let Detection { x: u, y: v, .. } = decided.detection;
            assert!((u - x).abs() < 0.6 && (v - y).abs() < 0.1, "{period} {index}: {decided:?}");
        }
    }
}

#[test]
fn nothing_links_or_fills_across_a_cut() {
    let flight = flight(0..24);
    let mut frames: Vec<TrackFrame> = flight.iter().map(|xy| frame(vec![ball(*xy)])).collect();
    frames[11..13].iter_mut().for_each(|frame| frame.candidates.clear());
    assert_eq!(sources(&track(frames.clone())), "dddddddddddffddddddddddd");
    frames[12].change = Change::Cut;
    assert_eq!(sources(&track(frames)), "ddddddddddd--ddddddddddd");
}

#[test]
fn a_ball_is_never_faster_than_the_limit_at_any_frame_rate() {
    // 40 pixels a frame: 0.78 widths a second at 25 frames, 1.9 at 60.
    let frames = || (0..20).map(|t| frame(vec![found(100.0 + 40.0 * t as f32, 300.0, 0.55)]));
    let with = |fps, max_speed| TrackOptions { fps, max_speed, ..TrackOptions::default() };
    assert_eq!(sources(&track_with(with(25.0, 1.0), frames())), "d".repeat(20));
    // No frame alone is worth the beginning of a track.
    assert_eq!(sources(&track_with(with(60.0, 1.0), frames())), "-".repeat(20));
    assert_eq!(sources(&track_with(with(60.0, 2.0), frames())), "d".repeat(20));
}

#[test]
fn a_picture_alone_needs_a_surer_score_than_the_threshold_and_a_lower_threshold_asks_for_less() {
    let alone = |threshold, score| {
        let options = TrackOptions { threshold, ..TrackOptions::default() };
        track_with(options, [with_change(Change::Cut, vec![found(5.0, 5.0, score)])])[0].is_some()
    };
    assert!(alone(0.5, 0.9) && !alone(0.5, 0.8) && alone(0.3, 0.8) && !alone(0.9, 0.9));
    let nothing =
        track([with_change(Change::Cut, vec![]), frame(vec![]), TrackFrame { size: [0, 0], ..frame(vec![]) }]);
    assert_eq!(nothing, [None; 3]);
}

#[test]
fn frames_are_decided_in_order_once_and_after_a_second_at_most() {
    let mut random = Stream::keyed(&[3]);
    let truth = rally(200, &mut random);
    let frames = detect(&truth, Faults { missed: 0.1, faint: 0.2, alarms: 0.8, logo: true, shoe: true }, &mut random);
    let mut tracker = Tracker::new(TrackOptions::default()).unwrap();
    let mut decided = 0;
    for (index, frame) in frames.iter().enumerate() {
        decided += tracker.push(frame.clone()).len();
        assert!(index + 1 - decided < 25, "{} frames wait", index + 1 - decided);
    }
    assert_eq!(decided + tracker.finish().len(), 200);
    assert!(tracker.finish().is_empty());
    assert_eq!(track(frames.clone()), track(frames));
}

#[test]
fn frames_that_are_missing_are_time_that_passes() {
    let with_gap = flight(0..20).into_iter().enumerate().filter(|(index, _)| !(9..12).contains(index));
    let frames = with_gap.map(|(index, xy)| TrackFrame {
        skipped: if index == 12 { 3 } else { 0 },
        ..frame(vec![found(xy[0], xy[1], 0.55)])
    });
    assert_eq!(sources(&track(frames)), "d".repeat(17));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let default = TrackOptions::default();
    for (options, expected) in [
        (TrackOptions { fps: 0.0, ..default.clone() }, "track fps = 0: expected frames a second, above 0"),
        (
            TrackOptions { max_speed: f64::NAN, ..default.clone() },
            "track max speed = NaN: expected widths of the frame",
        ),
        (TrackOptions { threshold: 1.5, ..default.clone() }, "threshold = 1.5: expected a score from 0 to 1"),
    ] {
        let error = Tracker::new(options).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
