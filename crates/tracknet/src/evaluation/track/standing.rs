//! Places where something is found again and again: logos, lamps, balls that lie on the court.

use super::path::{Picture, distance};

/// How far from the mean of a place a candidate belongs to it, in widths of the frame: 2 pixels of 512.
const RADIUS: f64 = 0.004;
/// What is found in one place for so long stands, in seconds.
const STANDING: f64 = 0.6;
/// The least share of pictures in which it is found.
const SHARE: f64 = 0.5;
/// A place is forgotten when nothing was found there for so long, in seconds; one that is known to be no ball in play later.
const FORGET: f64 = 0.6;
const FORGET_FALSE: f64 = 4.0;
/// In so many pictures a ball must move while something stands, for that to be no ball in play.
const BESIDE: usize = 5;

#[derive(Debug, Clone)]
struct Place {
    xy: [f64; 2],
    first: i64,
    last: i64,
    hits: u32,
    /// Whether it stood while a ball moved elsewhere.
    is_false: bool,
}

/// The places of a scene.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    places: Vec<Place>,
}

impl Places {
    pub(super) fn clear(&mut self) {
        self.places.clear();
    }

    /// Takes the next picture; a step takes `seconds`.
    pub(super) fn see(&mut self, picture: &Picture, seconds: f64) {
        let now = picture.step;
        self.places.retain(|place| {
            let absent = (now - place.last) as f64 * seconds;
            absent <= if place.is_false { FORGET_FALSE } else { FORGET }
        });
        for node in &picture.nodes {
            let near = self.places.iter_mut().filter(|place| distance(place.xy, node.xy) <= RADIUS);
            let nearest = near.min_by(|a, b| distance(a.xy, node.xy).total_cmp(&distance(b.xy, node.xy)));
            match nearest {
                // One picture counts once, whatever lies there.
                Some(place) if place.last == now => {}
                Some(place) => {
                    place.hits += 1;
                    place.last = now;
                    let weight = 1.0 / f64::from(place.hits);
                    place.xy = [0, 1].map(|axis| place.xy[axis] + weight * (node.xy[axis] - place.xy[axis]));
                }
                None => {
                    self.places.push(Place { xy: node.xy, first: now, last: now, hits: 1, is_false: false });
                }
            }
        }
    }

    /// Whether something stands where `xy` is.
    pub(super) fn stands(&self, xy: [f64; 2], seconds: f64) -> bool {
        self.places.iter().any(|place| distance(place.xy, xy) <= RADIUS && place.stands(seconds))
    }

    /// Whether what stands where `xy` is was found to be no ball in play.
    pub(super) fn is_false(&self, xy: [f64; 2]) -> bool {
        self.places.iter().any(|place| place.is_false && distance(place.xy, xy) <= RADIUS)
    }

    /// Learns what is no ball in play: what stood while a ball moved along `path`, the moving candidate of each picture.
    pub(super) fn learn(&mut self, pictures: &[Picture], path: &[Option<usize>], seconds: f64) {
        for place in self.places.iter_mut().filter(|place| !place.is_false && place.stands(seconds)) {
            let beside = pictures.iter().zip(path).filter(|(picture, chosen)| {
                chosen.is_some() && picture.nodes.iter().any(|node| distance(node.xy, place.xy) <= RADIUS)
            });
            place.is_false = beside.count() >= BESIDE;
        }
    }
}

impl Place {
    fn stands(&self, seconds: f64) -> bool {
        let steps = (self.last - self.first) as f64;
        steps * seconds >= STANDING && f64::from(self.hits) >= SHARE * steps
    }
}
