//! A value that the kernel may use while its owner moves.

use std::ptr::NonNull;

/// A value on the heap to which a raw pointer may be given away, and which may be moved after that.
///
/// A `Box` will not do: moving one asserts that nobody else has a pointer into it, and ends what such
/// pointers may be used for (the same is said of [`Buffer`](crate::transport::Buffer)'s storage). A
/// `NonNull` asserts nothing: it is moved like a number. The value itself never moves, and is freed
/// when this is dropped; who stores it with an operation has it freed after the completion.
pub(super) struct Lent<T>(NonNull<T>);

impl<T> Lent<T> {
    pub(super) fn new(value: T) -> Lent<T> {
        Lent(NonNull::from(Box::leak(Box::new(value))))
    }

    /// Where the value is. Valid until this is dropped, wherever it is moved to meanwhile.
    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is that of a box which was leaked in `new`, and nobody else frees it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says something where the rules of pointers are checked: `cargo miri test lent`.
    #[test]
    fn a_pointer_given_away_outlives_moves_of_the_owner() {
        let lent = Lent::new([1_u32, 2]);
        let given_away = lent.as_ptr();
        let moved = Some((lent, 3));
        let again = [moved];
        // SAFETY: the value is not dropped yet; no reference to it exists.
        unsafe {
            (*given_away)[1] = 7;
            assert_eq!(*again[0].as_ref().unwrap().0.as_ptr(), [1, 7]);
        }
    }
}
