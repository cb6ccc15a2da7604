//! A pinhole camera. Pixel centres lie at integer coordinates, as the labels' resize and flip assume.

use crate::draw::Stream;
use crate::math::*;

/// Position, orientation and lens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Camera {
    pub(crate) position: V3,
    pub(crate) right: V3,
    pub(crate) up: V3,
    pub(crate) forward: V3,
    /// Focal length, pixels.
    pub(crate) focal: f32,
    /// Principal point, pixels.
    pub(crate) center: [f32; 2],
}

/// A projected point: pixels, and the distance along the view axis in metres.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pixel {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) depth: f32,
}

pub(crate) const NEAR: f32 = 0.2;

impl Camera {
    /// Looks along +y, turned right by `yaw` and down by `pitch`, rolled by `roll`; radians.
    pub(crate) fn new(position: V3, [yaw, pitch, roll]: [f32; 3], focal: f32, center: [f32; 2]) -> Self {
        let forward = v3(sin(yaw) * cos(pitch), cos(yaw) * cos(pitch), -sin(pitch));
        let level = v3(cos(yaw), -sin(yaw), 0.0);
        let above = level.cross(forward);
        let right = level * cos(roll) + above * sin(roll);
        let up = above * cos(roll) - level * sin(roll);
        Self { position, right, up, forward, focal, center }
    }

    /// `None` behind the camera.
    pub(crate) fn project(&self, point: V3) -> Option<Pixel> {
        let d = point - self.position;
        let depth = d.dot(self.forward);
        (depth > NEAR).then(|| Pixel {
            x: self.center[0] + self.focal * d.dot(self.right) / depth,
            y: self.center[1] - self.focal * d.dot(self.up) / depth,
            depth,
        })
    }

    /// The direction through a pixel, of depth 1.
    pub(crate) fn ray(&self, x: f32, y: f32) -> V3 {
        self.forward + self.right * ((x - self.center[0]) / self.focal) - self.up * ((y - self.center[1]) / self.focal)
    }

    /// Whether it looks across the court rather than along it.
    pub(crate) fn looks_across(&self) -> bool {
        self.forward.x.abs() > self.forward.y.abs()
    }

    /// Distance along the view axis, metres.
    pub(crate) fn depth(&self, point: V3) -> f32 {
        (point - self.position).dot(self.forward)
    }

    /// The same place seen through another window: principal point moved, focal length scaled. Panning is done this
    /// way so that a moving frame is an exact crop of one still plate.
    pub(crate) fn window(&self, center: [f32; 2], zoom: f32) -> Self {
        Self { focal: self.focal * zoom, center, ..*self }
    }

    /// A world direction in view axes: right, down, towards the viewer.
    pub(crate) fn view_direction(&self, direction: V3) -> V3 {
        v3(direction.dot(self.right), -direction.dot(self.up), -direction.dot(self.forward))
    }
}

/// Where a camera stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pose {
    Behind(Framing),
    Side(Sideline),
}

/// Ranges of the place of a camera beside the court; it looks at the court's middle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sideline {
    /// −1 or 1: the side it stands on.
    pub(crate) side: f32,
    /// Distance from the centre line, metres.
    pub(crate) away: [f32; 2],
    /// Distance from the net's plane towards the near end, metres.
    pub(crate) along: [f32; 2],
    /// Height, metres.
    pub(crate) height: [f32; 2],
    /// Share of the frame's width that the court's length takes.
    pub(crate) court_length: [f32; 2],
}

/// Ranges that a camera's place and framing are drawn from. Heights in the frame are fractions of it, 0 at the top.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Framing {
    /// Distance behind the near baseline, metres.
    pub(crate) behind: [f32; 2],
    /// Height over that distance.
    pub(crate) slope: [f32; 2],
    /// Where the baselines lie in the frame.
    pub(crate) near_line: [f32; 2],
    pub(crate) far_line: [f32; 2],
    /// Length of the near baseline, fraction of the frame's width.
    pub(crate) court_width: [f32; 2],
    /// Largest distance from the centre line, metres.
    pub(crate) sideways: f32,
}

/// Draws a camera of a pose.
pub(crate) fn sample_camera(pose: &Pose, size: [usize; 2], rng: &mut Stream) -> Camera {
    match pose {
        Pose::Behind(framing) => behind(framing, size, rng),
        Pose::Side(sideline) => beside(sideline, size, rng),
    }
}

/// Looks at the court's middle, a little above the frame's; the focal length is solved so that the two ends of the nearer
/// sideline, as far as they lie before the camera, are as far apart as asked.
fn beside(sideline: &Sideline, size: [usize; 2], rng: &mut Stream) -> Camera {
    let [width, height] = size.map(|s| s as f32);
    let center = [(width - 1.0) * 0.5, (height - 1.0) * 0.5];
    let mut draw = |[low, high]: [f32; 2]| rng.range(low, high);
    let (x, y, z) = (draw(sideline.away) * sideline.side, -draw(sideline.along), draw(sideline.height));
    let (span, aim) = (draw(sideline.court_length) * width, draw([-1.5, 1.5]));
    let roll = draw([-0.01, 0.01]);
    let yaw = atan2(-x, aim - y);
    let pitch = atan2(z, (x * x + y * y).sqrt()) - draw([0.0, 0.05]);
    let one = Camera::new(v3(x, y, z), [yaw, pitch, roll], 1.0, [0.0; 2]);
    // In units of the focal length, no wider than a lens of 100 degrees sees.
    let at = |end: f32| one.project(v3(0.0, end * 11.885, 0.0)).map_or(1.2 * end, |p| p.x).clamp(-1.2, 1.2);
    let focal = span / (at(1.0) - at(-1.0)).abs().max(0.3);
    Camera::new(v3(x, y, z), [yaw, pitch, roll], focal, center)
}

/// Draws a pose: place and height are free, pitch and focal length are solved so that both baselines lie where the
/// framing says. Draws again until the near baseline's length fits, at most 64 times.
fn behind(framing: &Framing, size: [usize; 2], rng: &mut Stream) -> Camera {
    let [width, height] = size.map(|s| s as f32);
    let center = [(width - 1.0) * 0.5, (height - 1.0) * 0.5];
    let mut camera = Camera::new(v3(0.0, -40.0, 12.0), [0.0, 0.25, 0.0], width * 1.5, center);
    for _ in 0..64 {
        let behind = rng.range(framing.behind[0], framing.behind[1]);
        let z = behind * rng.range(framing.slope[0], framing.slope[1]);
        let near = (rng.range(framing.near_line[0], framing.near_line[1]) - 0.5) * height;
        let far = (rng.range(framing.far_line[0], framing.far_line[1]) - 0.5) * height;
        let x = rng.range(-framing.sideways, framing.sideways);
        let half = 11.885;
        let (angle_near, angle_far) = (atan2(z, behind), atan2(z, behind + 2.0 * half));
        let (mut low, mut high) = (angle_far, angle_near);
        for _ in 0..40 {
            let pitch = (low + high) * 0.5;
            let excess = far * tan(angle_near - pitch) - near * tan(angle_far - pitch);
            if excess < 0.0 { low = pitch } else { high = pitch }
        }
        let pitch = (low + high) * 0.5;
        let focal = near / tan(angle_near - pitch).max(1e-4);
        let roll = rng.range(-0.004, 0.004);
        let yaw = atan2(-x, behind + half) + rng.range(-0.006, 0.006);
        camera = Camera::new(v3(x, -half - behind, z), [yaw, pitch, roll], focal, center);
        let span = match (camera.project(v3(-5.485, -half, 0.0)), camera.project(v3(5.485, -half, 0.0))) {
            (Some(a), Some(b)) => (b.x - a.x) / width,
            _ => 0.0,
        };
        if span > framing.court_width[0] && span < framing.court_width[1] {
            break;
        }
    }
    camera
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_beside_the_court_sees_its_length_across_the_frame() {
        for (key, side) in [(1, -1.0), (2, 1.0), (3, -1.0)] {
            let (away, along, height, court_length) = ([9.0, 14.0], [0.0, 5.0], [2.0, 6.0], [0.8, 0.95]);
            let pose = Pose::Side(Sideline { side, away, along, height, court_length });
            let camera = sample_camera(&pose, [1280, 720], &mut crate::draw::stream(key, &[]));
            assert!(camera.position.x * side >= 9.0 && camera.forward.x * side < -0.5);
            let [near, far] = [-11.885, 11.885].map(|y| camera.project(v3(0.0, y, 0.0)).unwrap());
            let across = (far.x - near.x).abs();
            assert!(across > 0.75 * 1280.0 && across < 1280.0, "{across}");
            // From the right side the far end is on the right.
            assert!((far.x - near.x) * side > 0.0 && near.y > 200.0 && far.y < 700.0, "{near:?} {far:?}");
        }
    }

    #[test]
    fn a_ray_through_a_projected_point_meets_the_point() {
        let camera = Camera::new(v3(1.0, -30.0, 11.0), [0.03, 0.3, 0.01], 1500.0, [639.5, 359.5]);
        let point = v3(-3.0, 4.0, 1.2);
        let pixel = camera.project(point).unwrap();
        let back = camera.position + camera.ray(pixel.x, pixel.y) * pixel.depth;
        // f32 at a distance of 35 m resolves about 4e-6 m; a few operations.
        assert!((back - point).length() < 1e-3);
        assert!(camera.project(v3(0.0, -60.0, 5.0)).is_none());
    }
}
