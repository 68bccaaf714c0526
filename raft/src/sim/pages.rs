//! The bytes of a simulated file, in pages that copies share until one of them is written to. A page that
//! was never written to is a hole: a preallocated segment costs nothing, a copy of a disk a few pointers.

use std::sync::Arc;

const PAGE_BYTES: usize = 4096;

type Page = [u8; PAGE_BYTES];

#[derive(Clone, Default)]
pub(super) struct Pages {
    length: usize,
    pages: Vec<Option<Arc<Page>>>,
}

impl Pages {
    /// Nothing but zeroes.
    pub(super) fn zeroed(length: usize) -> Self {
        Self { length, pages: vec![None; length.div_ceil(PAGE_BYTES)] }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Zeroes up to `length`, if it was shorter.
    pub(super) fn grow(&mut self, length: usize) {
        if length > self.length {
            self.length = length;
            self.pages.resize(length.div_ceil(PAGE_BYTES), None);
        }
    }

    /// Writes, growing if need be.
    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.grow(offset + bytes.len());
        for piece in pieces(offset, bytes.len()) {
            let page = self.pages[piece.page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            let from = &bytes[piece.at..piece.at + piece.length];
            Arc::make_mut(page)[piece.within..piece.within + piece.length].copy_from_slice(from);
        }
    }

    /// Reads; false: beyond the end.
    pub(super) fn get(&self, offset: usize, into: &mut [u8]) -> bool {
        if offset + into.len() > self.length {
            return false;
        }
        for piece in pieces(offset, into.len()) {
            let into = &mut into[piece.at..piece.at + piece.length];
            match &self.pages[piece.page] {
                Some(page) => into.copy_from_slice(&page[piece.within..piece.within + piece.length]),
                None => into.fill(0),
            }
        }
        true
    }
}

/// The part of a stretch of bytes that lies in one page.
struct Piece {
    page: usize,
    /// Where in the page, and where in the stretch.
    within: usize,
    at: usize,
    length: usize,
}

fn pieces(offset: usize, length: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let within = (offset + at) % PAGE_BYTES;
        let piece = Piece {
            page: (offset + at) / PAGE_BYTES,
            within,
            at,
            length: (PAGE_BYTES - within).min(length - at),
        };
        at += piece.length;
        (piece.length > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_hold_what_a_vector_would(
            writes in prop::collection::vec((0usize..20_000, 0usize..9_000, any::<u8>()), 0..12),
        ) {
            let mut pages = Pages::zeroed(100);
            let mut plain = vec![0; 100];
            let before = pages.clone();
            for (offset, length, byte) in writes {
                pages.put(offset, &vec![byte; length]);
                if plain.len() < offset + length {
                    plain.resize(offset + length, 0);
                }
                plain[offset..offset + length].fill(byte);
            }
            let mut read = vec![1; pages.len()];
            prop_assert!(pages.get(0, &mut read));
            prop_assert_eq!(read, plain);
            prop_assert!(!pages.get(pages.len(), &mut [0]));
            prop_assert_eq!(before.len(), 100, "a copy is not touched");
        }
    }
}
