//! Tables of filtered searches, and the comparison at equal recall.

use serde::Serialize;

/// Recalls at which filtered and unfiltered searches are compared.
const RECALLS: [f64; 2] = [0.95, 0.99];

/// One candidate pool under one filter.
#[derive(Serialize)]
pub(super) struct Point {
    pub(super) ef: u32,
    pub(super) recall: f64,
    /// Queries per CPU second of one thread, best pass.
    pub(super) qps: f64,
    pub(super) evaluations: f64,
    /// Rows looked at by their signs.
    pub(super) glanced: f64,
    pub(super) hops: f64,
    /// Share of the queries that ended with each strategy.
    pub(super) ways: Vec<(&'static str, f64)>,
}

/// All pools under one filter.
#[derive(Serialize)]
pub(super) struct Series {
    name: String,
    passing_share: f64,
    points: Vec<Point>,
}

impl Series {
    pub(super) fn new(name: &str, passing_share: f64) -> Self {
        Self { name: name.to_owned(), passing_share, points: Vec::new() }
    }

    /// Adds a pass; of the passes of one pool the fastest stays.
    pub(super) fn add(&mut self, point: Point) {
        match self.points.iter_mut().find(|known| known.ef == point.ef) {
            Some(known) => {
                let qps = known.qps.max(point.qps);
                *known = Point { qps, ..point };
            }
            None => self.points.push(point),
        }
    }

    /// Rate at a recall: the fastest point that reaches it, or the point on the line (in log rate
    /// over log error) between that one and the next faster one. None when no pool reaches it.
    fn qps_at(&self, recall: f64) -> Option<f64> {
        let error = |point: &Point| (1.0 - point.recall).max(1e-4).ln();
        let fastest = |a: &&Point, b: &&Point| a.qps.total_cmp(&b.qps);
        let above = self.points.iter().filter(|point| point.recall >= recall).max_by(fastest)?;
        let below = self.points.iter().filter(|point| point.recall < recall);
        let below = below.filter(|point| point.qps > above.qps).min_by(fastest);
        let Some(below) = below else { return Some(above.qps) };
        let wanted = (1.0 - recall).max(1e-4).ln();
        let along = (wanted - error(above)) / (error(below) - error(above));
        Some((above.qps.ln() + along * (below.qps.ln() - above.qps.ln())).exp())
    }
}

/// Prints every point, then the rates at equal recall. The first series is the unfiltered one.
pub(super) fn print(series: &[Series]) {
    println!(
        "{:>26} {:>8} {:>5} {:>7} {:>9} {:>8} {:>7} {:>7}  strategy",
        "filter", "passing", "ef", "recall", "qps/cpu", "evals", "signs", "hops"
    );
    for Series { name, passing_share, points } in series {
        for point in points {
            let ways: Vec<String> = point
                .ways
                .iter()
                .map(|(way, share)| format!("{way} {:.0} %", share * 100.0))
                .collect();
            println!(
                "{name:>26} {:>7.2}% {:>5} {:>7.4} {:>9.0} {:>8.0} {:>7.0} {:>7.0}  {}",
                passing_share * 100.0,
                point.ef,
                point.recall,
                point.qps,
                point.evaluations,
                point.glanced,
                point.hops,
                ways.join(", ")
            );
        }
    }
    let Some((unfiltered, filtered)) = series.split_first() else { return };
    for recall in RECALLS {
        println!("\nat recall {recall}: queries per CPU second, and the ratio to no filter");
        let base = unfiltered.qps_at(recall);
        println!("{:>26} {:>9.0}", unfiltered.name, base.unwrap_or(f64::NAN));
        for series in filtered {
            let qps = series.qps_at(recall).unwrap_or(f64::NAN);
            let ratio = qps / base.unwrap_or(f64::NAN);
            println!("{:>26} {qps:>9.0} {ratio:>7.2}", series.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(ef: u32, recall: f64, qps: f64) -> Point {
        Point { ef, recall, qps, evaluations: 0.0, glanced: 0.0, hops: 0.0, ways: Vec::new() }
    }

    #[test]
    fn the_rate_at_a_recall_lies_between_its_neighbours() {
        let mut series = Series::new("x", 1.0);
        series.add(point(10, 0.90, 1_000.0));
        series.add(point(20, 0.975, 500.0));
        series.add(point(20, 0.975, 400.0));
        let middle = series.qps_at(0.95).unwrap();
        assert!((middle - 707.1).abs() < 0.1, "{middle}");
        let known = series.qps_at(0.975).unwrap();
        assert!((known - 500.0).abs() < 0.1, "{known}");
        assert_eq!(series.qps_at(0.99), None);
        assert_eq!(series.qps_at(0.5), Some(1_000.0));
    }
}
