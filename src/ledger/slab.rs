//! Nodes in one slab, linked into lists in the order of their numbers.
//!
//! Each node has two pairs of links, and so can be in two lists at a time. `by` says which pair a list
//! uses. Linking and unlinking cost the same however long a list is, except for a node that belongs in the
//! middle.

/// The index of no node.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Node<T> {
    /// The number of the value that is here, or was here last.
    pub(super) number: u64,
    pub(super) value: Option<T>,
    /// The nodes before and after, for each pair.
    pub(super) links: [(u32, u32); 2],
}

impl<T> Node<T> {
    pub(super) fn new(number: u64, value: T) -> Self {
        Self { number, value: Some(value), links: [(NONE, NONE); 2] }
    }
}

/// A list of nodes in the order of their numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) first: u32,
    pub(super) last: u32,
    /// The node that was linked last, if it still is. Nodes are often linked in their order, and then
    /// each belongs right behind this one.
    latest: u32,
    pub(super) len: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE, latest: NONE, len: 0 };

    /// Links node `at`, by its number. It nearly always belongs at the back, or right behind the latest;
    /// otherwise it is taken to belong near the front.
    pub(super) fn insert<T>(&mut self, nodes: &mut [Node<T>], by: usize, at: u32) {
        let number = nodes[at as usize].number;
        let is_behind = |other: u32| other != NONE && nodes[other as usize].number < number;
        let mut next = if self.last == NONE || is_behind(self.last) {
            NONE
        } else if is_behind(self.latest) {
            self.latest
        } else {
            self.first
        };
        while next != NONE && nodes[next as usize].number < number {
            next = nodes[next as usize].links[by].1;
        }
        let before = if next == NONE { self.last } else { nodes[next as usize].links[by].0 };
        nodes[at as usize].links[by] = (before, next);
        *self.next_link(nodes, by, before) = at;
        *self.previous_link(nodes, by, next) = at;
        self.latest = at;
        self.len += 1;
    }

    pub(super) fn unlink<T>(&mut self, nodes: &mut [Node<T>], by: usize, at: u32) {
        let (before, next) = nodes[at as usize].links[by];
        *self.next_link(nodes, by, before) = next;
        *self.previous_link(nodes, by, next) = before;
        if self.latest == at {
            self.latest = NONE;
        }
        self.len -= 1;
    }

    /// The link from node `at` to the next. The link from no node leads to the first.
    fn next_link<'a, T>(&'a mut self, nodes: &'a mut [Node<T>], by: usize, at: u32) -> &'a mut u32 {
        if at == NONE { &mut self.first } else { &mut nodes[at as usize].links[by].1 }
    }

    /// The link from node `at` to the one before. The link from no node leads to the last.
    fn previous_link<'a, T>(
        &'a mut self,
        nodes: &'a mut [Node<T>],
        by: usize,
        at: u32,
    ) -> &'a mut u32 {
        if at == NONE { &mut self.last } else { &mut nodes[at as usize].links[by].0 }
    }
}
