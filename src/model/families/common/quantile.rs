//! Quantiles of the normal distribution. Principal function: [`normal_quantile`]. Must not know families.

/// The point below which a share of a normal distribution lies, by bisection; `None` for shares that need none.
pub(in super::super) fn normal_quantile(share: f64) -> Option<f32> {
    if !(share > 0.0 && share < 1.0) {
        return None;
    }
    // The share below x, by the series x + x³/3 + x⁵/15 + … times the density (Marsaglia 2004).
    let below = |x: f64| {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while f64::abs(term) > 1e-17 {
            n += 2.0;
            term *= x * x / n;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    };
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        *(if below(middle) < share { &mut low } else { &mut high }) = middle;
    }
    Some(low as f32)
}

#[cfg(test)]
mod tests {
    use super::normal_quantile as quantile;

    #[test]
    pub(in super::super) fn normal_quantiles_are_those_of_the_tables() {
        for (share, x) in [(0.5, 0.0), (0.8, 0.841_621_2), (0.95, 1.644_853_6), (0.999, 3.090_232_3)] {
            assert!((quantile(share).unwrap() - x).abs() < 1e-6, "{share}");
        }
        assert_eq!([quantile(0.0), quantile(1.0), quantile(f64::NAN)], [None; 3]);
    }
}
