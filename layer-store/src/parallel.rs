//! The same small thing with many records, by several threads.

use crate::error::Result;

/// Threads at most. What they do is mostly the kernel's work, so more would not help.
const THREADS: usize = 4;
/// Fewer than this for each thread are not worth starting it.
const WORTH: usize = 64;

/// What `work` makes of each of `items`, in their order.
///
/// # Errors
/// Of the first item that failed.
pub(crate) fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let share = items.len().div_ceil(threads).max(WORTH);
    let mut shares = items.chunks(share);
    let first = shares.next().unwrap_or_default();
    let work = &work;
    let some = |items: &[T]| items.iter().map(work).collect::<Result<Vec<R>>>();
    std::thread::scope(|scope| {
        let others: Vec<_> = shares.map(|items| scope.spawn(move || some(items))).collect();
        let mut all = some(first)?;
        for other in others {
            let made = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.append(&mut made?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn order_and_the_first_failure_are_those_of_one_thread() {
        let items: Vec<usize> = (0..1_000).collect();
        assert_eq!(each(&items, |item| Ok(item * 2)).unwrap(), (0..2_000).step_by(2).collect::<Vec<_>>());
        assert!(each(&[], |item: &usize| Ok(*item)).unwrap().is_empty());
        let failing = each(&items, |item| match item % 300 {
            299 => Err(Error::Unsupported { what: item.to_string() }),
            _ => Ok(()),
        });
        assert!(matches!(failing, Err(Error::Unsupported { what }) if what == "299"));
    }
}
