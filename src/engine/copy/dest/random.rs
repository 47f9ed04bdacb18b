/// For tests: small and repeatable; `xorshift64`.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % end
    }

    /// One to four of `names`.
    pub(super) fn path(&mut self, names: &[&[u8]]) -> Vec<u8> {
        let depth = 1 + self.below(4);
        let parts: Vec<_> = (0..depth).map(|_| names[self.below(names.len())]).collect();
        parts.join(&b'/')
    }
}
