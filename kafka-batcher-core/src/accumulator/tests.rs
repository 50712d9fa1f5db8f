//! The rules of the accumulator, one by one, in virtual time.
