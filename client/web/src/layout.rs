//! Where the nodes of a graph are drawn: in columns, from those nobody waits for to those that wait for nothing.
//!
//! A node's column is the longest way to it. An edge that passes columns has a *bend* in each, which takes room there as a
//! node does, half as much, so that no edge is drawn over a node. The order within columns is improved until few edges cross:
//! each node goes to the mean of its neighbors, alternately of those to the left and to the right.

/// Quarters of a row that a node takes.
const NODE: usize = 4;
/// The same of a bend.
const BEND: usize = 2;
/// How often the order within columns is improved.
const SWEEPS: usize = 8;

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Its column.
    pub(crate) column: usize,
    /// How far down it begins, quarters of a row.
    pub(crate) top: usize,
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// Each node.
    pub(crate) nodes: Vec<Place>,
    /// Of each edge, how far down it is in every column between its ends.
    pub(crate) bends: Vec<Vec<usize>>,
}

/// Lays out so many nodes with these edges between them, each from the one to the other. Edges of a circle are drawn, and
/// not followed.
pub(crate) fn lay_out(nodes: usize, edges: &[(usize, usize)]) -> Layout {
    let columns = columns(nodes, edges);
    let mut items = Items {
        columns,
        left: vec![Vec::new(); nodes],
        right: vec![Vec::new(); nodes],
        size: vec![NODE; nodes],
    };
    let bends: Vec<Vec<usize>> = edges.iter().map(|(from, to)| items.connect(*from, *to)).collect();
    let tops = items.ordered();
    let top = |item: &usize| tops.get(*item).copied().unwrap_or(0);
    let place = |(item, column): (usize, &usize)| Place { column: *column, top: top(&item) };
    Layout {
        nodes: items.columns.iter().enumerate().take(nodes).map(place).collect(),
        bends: bends.iter().map(|bends| bends.iter().map(top).collect()).collect(),
    }
}

/// The longest way to each node.
fn columns(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut columns = vec![0; nodes];
    // Without circles this settles after as many rounds as there are columns; with one, it is cut off.
    for _ in 0..nodes {
        let before = columns.clone();
        for (from, to) in edges {
            let Some(after) = columns.get(*from).map(|column| column + 1) else { continue };
            if let Some(column) = columns.get_mut(*to)
                && *column < after
                && after < nodes
            {
                *column = after;
            }
        }
        if before == columns {
            break;
        }
    }
    columns
}

/// Nodes, and behind them bends.
struct Items {
    columns: Vec<usize>,
    /// Neighbors in the column before, and in the one behind.
    left: Vec<Vec<usize>>,
    right: Vec<Vec<usize>>,
    /// How much room each takes.
    size: Vec<usize>,
}

impl Items {
    fn column(&self, item: usize) -> usize {
        self.columns.get(item).copied().unwrap_or(0)
    }

    /// Joins two nodes; gives the bends between them.
    fn connect(&mut self, from: usize, to: usize) -> Vec<usize> {
        let (mut before, mut bends) = (from, Vec::new());
        for column in self.column(from) + 1..self.column(to) {
            let bend = self.columns.len();
            self.columns.push(column);
            self.size.push(BEND);
            self.left.push(Vec::new());
            self.right.push(Vec::new());
            self.join(before, bend);
            before = bend;
            bends.push(bend);
        }
        // An edge that closes a circle has no room of its own.
        if self.column(before) + 1 == self.column(to) {
            self.join(before, to);
        }
        bends
    }

    fn join(&mut self, before: usize, after: usize) {
        self.right.get_mut(before).into_iter().for_each(|right| right.push(after));
        self.left.get_mut(after).into_iter().for_each(|left| left.push(before));
    }

    /// How far down each item begins.
    fn ordered(&self) -> Vec<usize> {
        let count = self.columns.iter().max().map_or(0, |most| most + 1);
        let mut order = vec![Vec::new(); count];
        for item in 0..self.columns.len() {
            order.get_mut(self.column(item)).into_iter().for_each(|column| column.push(item));
        }
        let mut tops = self.tops(&order);
        for sweep in 0..SWEEPS {
            let near = if sweep % 2 == 0 { &self.left } else { &self.right };
            let sweep: Vec<usize> =
                if sweep % 2 == 0 { (0..count).collect() } else { (0..count).rev().collect() };
            for column in sweep {
                let Some(column) = order.get_mut(column) else { continue };
                column.sort_by_cached_key(|item| self.mean(near, *item, &tops));
                tops = self.tops(&order);
            }
        }
        tops
    }

    /// The middle of an item's neighbors, or its own if it has none; in hundredths, which are fine enough to tell apart.
    fn mean(&self, near: &[Vec<usize>], item: usize, tops: &[usize]) -> usize {
        let middle = |item: &usize| {
            let (top, size) =
                (tops.get(*item).copied().unwrap_or(0), self.size.get(*item).copied().unwrap_or(0));
            (top + size / 2) * 100
        };
        let near = near.get(item).map(Vec::as_slice).unwrap_or_default();
        near.iter().map(middle).sum::<usize>().checked_div(near.len()).unwrap_or_else(|| middle(&item))
    }

    /// How far down each item begins where columns are in this order, each in the middle of the highest.
    fn tops(&self, order: &[Vec<usize>]) -> Vec<usize> {
        let size = |item: &usize| self.size.get(*item).copied().unwrap_or(0);
        let height = |column: &Vec<usize>| column.iter().map(size).sum::<usize>();
        let most = order.iter().map(height).max().unwrap_or(0);
        let mut tops = vec![0; self.columns.len()];
        for column in order {
            let mut next = (most - height(column)) / 2;
            for item in column {
                tops.get_mut(*item).into_iter().for_each(|top| *top = next);
                next += size(item);
            }
        }
        tops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No two things that take room in a column overlap: a node takes a row, a bend half of one.
    fn assert_apart(layout: &Layout, edges: &[(usize, usize)]) {
        let mut taken: Vec<(usize, usize, usize)> =
            layout.nodes.iter().map(|place| (place.column, place.top, 4)).collect();
        for ((from, _), bends) in edges.iter().zip(&layout.bends) {
            let first = layout.nodes[*from].column + 1;
            taken.extend(bends.iter().enumerate().map(|(step, top)| (first + step, *top, 2)));
        }
        taken.sort_unstable();
        for pair in taken.windows(2) {
            let [(column, top, size), (other, below, _)] = pair else { continue };
            assert!(column != other || top + size <= *below, "{taken:?}");
        }
    }

    #[test]
    fn a_node_is_behind_all_that_wait_for_it_and_a_long_edge_goes_around_what_is_between() {
        let edges = [(0, 1), (1, 2), (0, 2), (2, 3)];
        let layout = lay_out(4, &edges);
        assert_eq!(layout.nodes.iter().map(|place| place.column).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(layout.bends.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1, 0]);
        assert_apart(&layout, &edges);
    }

    #[test]
    fn nothing_is_drawn_over_anything_in_a_large_graph() {
        let edges: Vec<(usize, usize)> = (0..120)
            .flat_map(|from| [(from, from + 1 + from * 7 % 23), (from, from + 1 + from * 3 % 11)])
            .collect();
        let edges: Vec<(usize, usize)> = edges.into_iter().filter(|(_, to)| *to < 120).collect();
        assert_apart(&lay_out(120, &edges), &edges);
    }

    #[test]
    fn edges_do_not_cross_where_they_need_not() {
        let layout = lay_out(4, &[(0, 3), (1, 2)]);
        let below = |one: usize, other: usize| layout.nodes[one].top > layout.nodes[other].top;
        assert_eq!(below(1, 0), below(2, 3));
    }

    #[test]
    fn a_column_with_few_is_in_the_middle() {
        let layout = lay_out(4, &[(0, 3), (1, 3), (2, 3)]);
        assert_eq!(layout.nodes[3], Place { column: 1, top: 4 });
    }

    #[test]
    fn a_circle_has_an_end() {
        let layout = lay_out(3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(layout.nodes.len(), 3);
        assert_eq!(lay_out(0, &[]), Layout::default());
    }
}
