//! Medians, and how far apart the rounds were.

use serde::Serialize;

/// The middle of some figures, the least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None: there are no figures. What is no number counts as none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut figures: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let upper = *figures.get(middle)?;
        let lower = if figures.len().is_multiple_of(2) { *figures.get(middle - 1)? } else { upper };
        Some(Spread { median: (lower + upper) / 2.0, min, max })
    }

    /// Of the ratios round by round: what disturbed a round disturbed both sides of its ratio.
    pub(crate) fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Spread> {
        Spread::of(pairs.into_iter().map(|(above, below)| above / below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn one_slow_round_does_not_move_a_ratio() {
        let ratios = Spread::of_ratios([(2.0, 1.0), (20.0, 10.0), (2.2, 1.1)]).unwrap();
        assert!((ratios.median - 2.0).abs() < 1e-9 && (ratios.max - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_to_nothing_is_no_figure() {
        assert_eq!(Spread::of_ratios([(1.0, 0.0), (0.0, 0.0)]), None);
    }
}
