//! What a token costs on one worker and on several, as far as the graph and a few measurements tell.
//!
//! Principal type: [`Work`]. Must not know how anything is measured.

use super::{Exchange, Split, shard};
use crate::model::graph::{Graph, Op, WeightDecl, WeightId};

/// Matrices of fewer elements are not worth an exchange: every worker holds them.
const LEAST: usize = 1 << 15;
/// But in a model of which such a share of its work is much.
const SHARE: f64 = 64.0;
/// Less work for a token is done before others could help, in milliseconds.
const LEAST_MS: f64 = 2.0;
/// Workers must be so much faster than fewer to be worth their memory and heat.
const WORTH: f64 = 0.9;
/// A token of a prompt takes such a share of the time of one that is written, for its weights are unpacked once for many.
const PREFILL: f64 = 0.6;
/// So many tokens of a prompt share an exchange, those that are computed at a time in a model of some size.
const CHUNK: f64 = 8.0;

/// What a token costs.
pub struct Work<'a> {
    graph: &'a Graph,
    /// Multiplications.
    products: f64,
    /// Fewest workers that have the memory.
    least: usize,
}

/// What was measured of workers that compute and exchange.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Multiplications a millisecond of the leader alone.
    pub alone: f64,
    /// The slowest worker's while all compute.
    pub together: f64,
    /// Milliseconds that a round of exchanging parts takes all of them, besides what they compute in between.
    pub round_ms: f64,
    /// How many those are.
    pub count: usize,
}

/// What a token takes, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Of a text that is written.
    pub decode: f64,
    /// Of a prompt.
    pub prefill: f64,
}

impl Cost {
    /// A turn of a conversation reads about as many tokens as it writes.
    fn of_a_turn(self) -> f64 {
        self.decode + self.prefill
    }
}

impl Work<'_> {
    /// Of a model whose weights take so many workers' memory at least.
    pub fn new(graph: &Graph, least: usize) -> Work<'_> {
        Work { graph, products: phases(graph).iter().sum(), least }
    }

    /// Fewest workers that have the memory.
    pub fn least(&self) -> usize {
        self.least
    }

    /// Matrices of fewer elements are held by every worker.
    pub fn least_elements(&self) -> usize {
        LEAST.min((self.products / SHARE) as usize)
    }

    /// Whether more than one worker can be worth it, given the speed of this one.
    pub fn is_worth_it(&self, alone: f64) -> bool {
        self.least > 1 || self.alone_ms(alone) >= LEAST_MS
    }

    /// Milliseconds of a token's products at a speed.
    pub fn alone_ms(&self, alone: f64) -> f64 {
        self.products / alone
    }

    /// Multiplications between two exchanges of `count` workers, of the one that has most.
    pub fn between_exchanges(&self, count: usize) -> f64 {
        let phases = self.slowest(count);
        phases.iter().sum::<f64>() / phases.len() as f64
    }

    /// Of each stretch between exchanges the multiplications of the worker that has most.
    fn slowest(&self, count: usize) -> Vec<f64> {
        let of =
            |index| phases(&shard(self.graph, Split { index, count, least: self.least_elements() }).graph);
        let join = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect();
        (0..count).map(of).reduce(join).unwrap_or_default()
    }

    /// What a token takes `n` workers.
    pub fn cost(&self, measured: &Measured, n: usize) -> Cost {
        let Measured { alone, together, round_ms, count } = *measured;
        if n <= 1 {
            let decode = self.alone_ms(alone);
            return Cost { decode, prefill: PREFILL * decode };
        }
        // Both costs grow from what one worker has to what was measured with all.
        let share = (n - 1) as f64 / (count - 1) as f64;
        let speed = alone + (together - alone) * share;
        let phases = self.slowest(n);
        let compute = phases.iter().sum::<f64>() / speed;
        let exchange = (phases.len() - 1) as f64 * round_ms * share;
        Cost { decode: compute + exchange, prefill: PREFILL * compute + exchange / CHUNK }
    }

    /// The number of workers that is fastest, as far as can be told.
    pub fn best(&self, measured: &Measured) -> usize {
        let mut best = match self.least > 1 {
            true => (measured.count, f64::INFINITY),
            false => (1, WORTH * self.cost(measured, 1).of_a_turn()),
        };
        for n in self.least.max(2)..=measured.count {
            let ms = self.cost(measured, n).of_a_turn();
            if ms < best.1 {
                best = (n, ms);
            }
        }
        best.0
    }
}

/// A worker alone takes so much longer than its products, for all else that there is in a token.
const ELSE: f64 = 1.15;

/// What several workers lose to one: they are worth another look once it is as much as a change costs, so that changes never
/// cost more than as much again as they could save.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// What a token takes one worker.
    alone_ms: f64,
    lost_ms: f64,
    /// What has to be lost, in changes: more with every look that was for nothing.
    patience: f64,
}

impl Pace {
    /// Of workers that could be one, which takes so long for a token's products.
    pub fn new(alone_ms: f64) -> Pace {
        Pace { alone_ms: alone_ms * ELSE, lost_ms: 0.0, patience: 1.0 }
    }

    /// A token took all together so long.
    pub fn took(&mut self, ms: f64) {
        self.lost_ms = (self.lost_ms + ms - self.alone_ms).max(0.0);
    }

    /// What it takes to change, where a prompt of `n_tokens` has to be read again and weights take `load_ms`.
    pub fn is_lost(&self, load_ms: f64, n_tokens: usize) -> bool {
        self.lost_ms > self.patience * (load_ms + PREFILL * self.alone_ms * n_tokens as f64)
    }

    /// Somebody looked, and nothing is changed.
    pub fn keep(&mut self) {
        (self.lost_ms, self.patience) = (0.0, 2.0 * self.patience);
    }
}

/// Multiplications before each exchange of a graph, and after the last.
fn phases(graph: &Graph) -> Vec<f64> {
    let elements = |weight: WeightId| {
        let WeightDecl { n_rows, n_cols, .. } = graph.weights[weight.0];
        n_rows as f64 * n_cols as f64
    };
    let mut phases = vec![0.0];
    for op in &graph.ops {
        let products = match *op {
            Op::MatMul { weight, .. } => elements(weight),
            Op::ExpertMatMul { weight, selection, n_experts, .. } => {
                let n_used = graph.values[selection.0].width / 2;
                elements(weight) * n_used as f64 / n_experts as f64
            }
            Op::Exchange(Exchange::Gather { .. } | Exchange::Embed { .. }) => {
                phases.push(0.0);
                0.0
            }
            _ => 0.0,
        };
        *phases.last_mut().expect("invariant: there is a first") += products;
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::graph::{Rows, ValueDecl, ValueId, WeightKind};

    /// `n_layers` times two products, each of the whole of what the one before wrote, and a head.
    fn model(width: usize, ff: usize, n_layers: usize, n_vocab: usize) -> Graph {
        let mut graph = Graph::default();
        let mut value = |width| {
            let rows = Rows::Tokens;
            graph.values.push(ValueDecl { name: String::new(), width, rows });
            ValueId(graph.values.len() - 1)
        };
        let (x, up, out) = (value(width), value(ff), value(n_vocab));
        let mut product = |x: ValueId, out: ValueId| {
            let (n_cols, n_rows) = (graph.values[x.0].width, graph.values[out.0].width);
            let kind = WeightKind::Matrix;
            graph.weights.push(WeightDecl { name: String::new(), n_cols, n_rows, kind, part_of: None });
            let weight = WeightId(graph.weights.len() - 1);
            graph.ops.push(Op::MatMul { x, weight, bias: None, add: None, scale: 1.0, out });
        };
        for _ in 0..n_layers {
            product(x, up);
            product(up, x);
        }
        product(x, out);
        graph.logits = Some(out);
        graph
    }

    /// 135M weights as SmolLM2 has them, with two exchanges a layer instead of four.
    fn small() -> Graph {
        model(576, 3072, 30, 49152)
    }

    /// Eight layers of a model of 1B.
    fn large() -> Graph {
        model(2048, 16384, 8, 49152)
    }

    /// What two idle cores gave: 10.6 million products a millisecond each.
    const QUIET: Measured = Measured { alone: 10.6e6, together: 10.0e6, round_ms: 0.03, count: 2 };

    #[test]
    fn each_stretch_takes_as_long_as_its_slowest_worker() {
        let graph = model(64, 100, 1, 120);
        let work = Work::new(&graph, 1);
        assert_eq!(work.products, (2 * 64 * 100 + 64 * 120) as f64);
        // 100 rows in panels of four are 48 and 52; 64 and 120 are halves. The logits are gathered.
        assert_eq!(work.slowest(2), [52.0 * 64.0, 32.0 * 100.0, 60.0 * 64.0, 0.0]);
        assert_eq!(work.between_exchanges(2), (52.0 * 64.0 + 32.0 * 100.0 + 60.0 * 64.0) / 4.0);
    }

    #[test]
    fn work_that_each_worker_repeats_counts_for_each() {
        let mut graph = model(64, 100, 1, 120);
        // Too small to be cut.
        graph.weights[0].n_rows = 1;
        let work = Work::new(&graph, 1);
        assert_eq!(work.slowest(2), [64.0 + 32.0 * 100.0, 60.0 * 64.0, 0.0]);
    }

    #[test]
    fn two_idle_cores_are_taken_where_exchanges_are_cheap() {
        let (small, large) = (small(), large());
        let messages = Measured { round_ms: 0.15, ..QUIET };
        assert_eq!(Work::new(&small, 1).best(&QUIET), 2);
        assert_eq!(Work::new(&small, 1).best(&messages), 1);
        assert_eq!(Work::new(&large, 1).best(&QUIET), 2);
        assert_eq!(Work::new(&large, 1).best(&messages), 2);
    }

    #[test]
    fn a_core_that_others_keep_busy_is_left_to_them() {
        let (small, large) = (small(), large());
        // Half of the core is the other process's, and who waits for it waits for its turns.
        let busy = Measured { together: 5.3e6, round_ms: 0.5, ..QUIET };
        for graph in [&small, &large] {
            assert_eq!(Work::new(graph, 1).best(&busy), 1);
            // Only so many have the memory.
            assert_eq!(Work::new(graph, 2).best(&busy), 2);
        }
        assert!(!Work::new(&model(64, 100, 1, 120), 1).is_worth_it(QUIET.alone));
    }

    #[test]
    fn a_change_is_made_once_as_much_was_lost_as_it_costs() {
        let mut pace = Pace::new(10.0);
        let slow = |pace: &mut Pace, load_ms: f64, n_tokens: usize| {
            (1..).find(|_| {
                pace.took(21.5);
                pace.is_lost(load_ms, n_tokens)
            })
        };
        // Ten milliseconds a token are lost.
        assert_eq!(slow(&mut pace, 1000.0, 0), Some(101));
        // As much is won again.
        (0..1000).for_each(|_| pace.took(8.0));
        assert!(!pace.is_lost(0.0, 0));
        // A text that is read again makes a change dearer, and so does one that was thought better of.
        assert_eq!(slow(&mut pace, 1000.0, 100), Some(170));
        pace.keep();
        assert_eq!(slow(&mut pace, 1000.0, 0), Some(201));
    }

    #[test]
    fn of_many_cores_as_many_are_taken_as_help() {
        let graph = large();
        let eight = Measured { count: 8, round_ms: 0.02, ..QUIET };
        assert_eq!(Work::new(&graph, 1).best(&eight), 8);
        let slow = Measured { round_ms: 5.0, ..eight };
        assert!((2..8).contains(&Work::new(&graph, 1).best(&slow)), "{}", Work::new(&graph, 1).best(&slow));
    }
}
