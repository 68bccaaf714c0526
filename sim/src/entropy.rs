//! Where randomness comes from in a simulation: the seed, for everything in the process.
//!
//! The standard library's hash maps, ring, every version of rand and tokio ask the operating system for
//! random bytes through the C library: its function `getrandom`, or `syscall` with that number. This crate
//! defines both: on a thread that simulates, the bytes come from the seed; on any other thread, and for
//! any other system call, the kernel is asked as usual. So not even the order of a hash map differs
//! between two runs of a seed.

#![allow(unsafe_code, reason = "stands in for two functions of the C library")]

use std::cell::Cell;

thread_local! {
    static STREAM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes this thread's randomness follow from the seed, until the guard is dropped.
pub fn seed(seed: u64) -> Seeded {
    STREAM.set(Some(seed));
    Seeded(())
}

/// See [`seed`].
pub struct Seeded(());

impl Drop for Seeded {
    fn drop(&mut self) {
        STREAM.set(None);
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0. The bias is below 2⁻³² for every bound used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `permille` times of a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of them; they are not empty.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// An independent stream.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }
}

/// The C library's function of this name, for the whole process.
///
/// # Safety
/// `buffer` points to `length` writable bytes, as for the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let seeded = STREAM.try_with(Cell::get).ok().flatten();
    let Some(state) = seeded else {
        // SAFETY: the arguments are passed on as they came.
        return unsafe { system(buffer, length, flags) };
    };
    let mut stream = SplitMix::new(state);
    for at in (0..length).step_by(8) {
        let bytes = stream.draw().to_le_bytes();
        let count = (length - at).min(8);
        // SAFETY: `at + count` is at most `length`, up to which the caller lets us write.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.add(at), count) };
    }
    STREAM.set(Some(stream.0));
    length as isize
}

unsafe fn system(buffer: *mut u8, length: usize, flags: u32) -> isize {
    // SAFETY: as the caller promised.
    let slice = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<std::mem::MaybeUninit<u8>>(), length) };
    let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
    match rustix::rand::getrandom(slice, flags) {
        Ok((filled, _)) => filled.len() as isize,
        Err(_) => -1,
    }
}

// `syscall` as the C library has it (System V calling convention in, the kernel's out; -1 and errno for
// errors), but for one number. A C function with variable arguments cannot be written in Rust.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl syscall",
    ".type syscall, @function",
    "syscall:",
    "cmp rdi, {number}",
    "je 3f",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    "cmp rax, -4095",
    "jae 2f",
    "ret",
    "2:",
    "neg eax",
    "push rax",
    "call __errno_location@PLT",
    "pop rcx",
    "mov [rax], ecx",
    "mov rax, -1",
    "ret",
    "3:",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "jmp {getrandom}",
    number = const 318,
    getrandom = sym getrandom,
);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn order() -> Vec<u32> {
        (0..50).collect::<HashSet<u32>>().into_iter().collect()
    }

    #[test]
    fn hash_maps_of_one_seed_have_one_order() {
        let run = |number| {
            std::thread::spawn(move || {
                let _seeded = seed(number);
                (order(), uuid::Uuid::new_v4())
            })
            .join()
            .expect("the thread ends")
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_system_call_is_seeded_as_well() {
        let run = |number| {
            std::thread::spawn(move || {
                let _seeded = seed(number);
                scp_mesh::NodeKey::generate().expect("a key").id()
            })
            .join()
            .expect("the thread ends")
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn without_a_seed_the_system_is_asked() {
        assert_ne!(
            scp_mesh::NodeKey::generate().expect("a key").id(),
            scp_mesh::NodeKey::generate().expect("a key").id()
        );
        assert_ne!(uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    }
}
