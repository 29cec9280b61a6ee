//! When calls are due: a rate that is made of straight lines, and the moments at which its integral meets 1, 2, 3 ...

use std::time::Duration;

use crate::harness::Chance;

/// How the rate changes over the run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Shape {
    /// The same all the time.
    Steady,
    /// From this part of the full rate (0 to 1) up to it.
    Ramp(f64),
    /// In so many steps of equal length, from the first part of the full rate up to it.
    Step(u32),
    /// Steady, for long: memory and latency at the end are compared with those at the start.
    Soak,
}

impl Shape {
    /// Reads `steady`, `ramp`, `ramp:0.2`, `step`, `step:8` or `soak`.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name, rest) {
            ("steady", None) => Ok(Self::Steady),
            ("soak", None) => Ok(Self::Soak),
            ("ramp", None) => Ok(Self::Ramp(0.0)),
            ("ramp", Some(from)) => match from.parse() {
                Ok(from) if (0.0..=1.0).contains(&from) => Ok(Self::Ramp(from)),
                _ => Err("write ramp:PART, the part of --rate to begin with, 0 to 1".to_owned()),
            },
            ("step", None) => Ok(Self::Step(5)),
            ("step", Some(steps)) => match steps.parse() {
                Ok(steps) if (2..=50).contains(&steps) => Ok(Self::Step(steps)),
                _ => Err("write step:N, with N from 2 to 50".to_owned()),
            },
            _ => Err("is none of steady, ramp[:PART], step[:N], soak".to_owned()),
        }
    }

    /// The lines that the rate is made of.
    pub fn pieces(self, rate: f64, length: Duration) -> Vec<Piece> {
        let seconds = length.as_secs_f64();
        match self {
            Self::Steady | Self::Soak => vec![Piece { seconds, from: rate, to: rate }],
            Self::Ramp(part) => vec![Piece { seconds, from: rate * part, to: rate }],
            Self::Step(steps) => (1..=steps)
                .map(|step| {
                    let height = rate * f64::from(step) / f64::from(steps);
                    Piece { seconds: seconds / f64::from(steps), from: height, to: height }
                })
                .collect(),
        }
    }
}

/// A straight line of the rate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Piece {
    /// How long it is.
    pub seconds: f64,
    /// Calls a second at its start.
    pub from: f64,
    /// And at its end.
    pub to: f64,
}

impl Piece {
    fn calls(&self) -> f64 {
        self.seconds * (self.from + self.to) / 2.0
    }

    /// When `calls` of its calls have come, in seconds since its start.
    fn when(&self, calls: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        if slope.abs() < 1e-9 {
            return calls / self.from.max(f64::MIN_POSITIVE);
        }
        // from * t + slope * t^2 / 2 = calls
        ((self.from * self.from + 2.0 * slope * calls).max(0.0).sqrt() - self.from) / slope
    }
}

/// How calls are spread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// As those of many people who know nothing of each other: sometimes several at once.
    Poisson,
}

/// The moments at which calls are due, since the start of the run.
pub struct Schedule {
    pieces: Vec<Piece>,
    arrivals: Arrivals,
    chance: Chance,
    /// The piece that is reached, the seconds and the calls before it, and the calls that were due so far.
    at: usize,
    seconds: f64,
    before: f64,
    calls: f64,
}

impl Schedule {
    /// The schedule of these pieces.
    pub fn new(pieces: Vec<Piece>, arrivals: Arrivals, seed: u64) -> Self {
        let chance = Chance::new(seed);
        Self { pieces, arrivals, chance, at: 0, seconds: 0.0, before: 0.0, calls: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = self.calls;
        self.calls += match self.arrivals {
            Arrivals::Even => 1.0,
            Arrivals::Poisson => -unit(&mut self.chance).ln(),
        };
        loop {
            let piece = self.pieces.get(self.at)?;
            let inside = due - self.before;
            if inside < piece.calls() {
                return Some(Duration::from_secs_f64(self.seconds + piece.when(inside)));
            }
            self.seconds += piece.seconds;
            self.before += piece.calls();
            self.at += 1;
        }
    }
}

/// A number above 0 and at most 1.
pub fn unit(chance: &mut Chance) -> f64 {
    ((chance.bits() >> 11) as f64 + 1.0) / (1u64 << 53) as f64
}
