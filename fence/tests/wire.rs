//! The wire form of frontiers: its bytes, what is refused, and a seeded fuzz of the decoder.

mod support;

use fence::{Axis, DecodeError, Frontier, Tainted};
use support::Random;

fn of(pairs: &[(u64, u64)]) -> Frontier {
    pairs.iter().map(|&(axis, epoch)| (Axis::new(axis), epoch)).collect()
}

fn encoded(frontier: &Frontier) -> Vec<u8> {
    let mut bytes = Vec::new();
    frontier.encode(&mut bytes);
    bytes
}

/// Numbers of every length, the ends of the range included.
fn number(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => u64::MAX - random.below(3),
        _ => random.next() >> random.below(64),
    }
}

fn frontier(random: &mut Random) -> Frontier {
    let count = random.below(9);
    (0..count).map(|_| (Axis::new(number(random)), number(random))).collect()
}

#[test]
fn the_bytes_are_these() {
    assert_eq!(encoded(&Frontier::new()), [1, 0]);
    assert_eq!(encoded(&of(&[(1, 5), (2, 300), (130, 1)])), [1, 3, 1, 5, 0, 0xac, 2, 127, 1]);
    let last = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(encoded(&of(&[(u64::MAX, u64::MAX)])), [&[1, 1][..], &last, &last].concat());
    let mut bytes = vec![9];
    of(&[(0, 1)]).encode(&mut bytes);
    assert_eq!(bytes, [9, 1, 1, 0, 1], "appended");
}

#[test]
fn what_is_refused() {
    use DecodeError as E;
    let greatest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let after_greatest = [&[1, 2][..], &greatest, &[1, 0, 1]].concat();
    let beyond = [&[1, 2, 5, 1][..], &greatest, &[1]].concat();
    let cases: [(&[u8], E); 14] = [
        (&[], E::Truncated { at: 0 }),
        (&[1], E::Truncated { at: 1 }),
        (&[0, 0], E::Version { version: 0 }),
        (&[2, 0], E::Version { version: 2 }),
        (&[1, 1, 5], E::Count { count: 1, room: 0 }),
        (&[1, 1, 0x80, 0x80], E::Truncated { at: 4 }),
        (&[1, 1, 5, 0x80], E::Truncated { at: 4 }),
        (&[1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1], E::Count { count: 0xffff_ffff, room: 1 }),
        (&[1, 0x80, 0], E::Varint { at: 1 }),
        (&[1, 1, 5, 0x81, 0], E::Varint { at: 3 }),
        (&[1, 1, 5, 0], E::ZeroEpoch { at: 3, axis: Axis::new(5) }),
        (&[1, 0, 7], E::Trailing { at: 2, bytes: 1 }),
        (&after_greatest, E::AxisOverflow { at: 13 }),
        (&beyond, E::AxisOverflow { at: 4 }),
    ];
    for (bytes, error) in cases {
        assert_eq!(Frontier::decode(bytes), Err(error.clone()), "{bytes:?}");
        assert!(error.to_string().starts_with("frontier decode: "), "{error}");
    }
    let count = [&[1][..], &greatest, &[0; 64]].concat();
    assert_eq!(Frontier::decode(&count), Err(E::Count { count: u64::MAX, room: 32 }));
    for tenth in [2, 0x7f, 0x81, 0xff] {
        let mut epoch = [0xff; 10];
        epoch[9] = tenth;
        let bytes = [&[1, 1, 0][..], &epoch, &[0]].concat();
        assert_eq!(Frontier::decode(&bytes), Err(E::Varint { at: 3 }), "65 bits, {tenth:#x}");
    }
}

#[test]
fn a_prefix_says_where_it_ends() {
    let first = of(&[(4, 4), (500, 70_000)]);
    let mut bytes = encoded(&first);
    let length = bytes.len();
    Frontier::new().encode(&mut bytes);
    assert_eq!(Frontier::decode_prefix(&bytes), Ok((Tainted::new(first), length)));
    assert_eq!(Frontier::decode(&bytes[length..]), Ok(Tainted::new(Frontier::new())));
}

#[test]
fn what_is_encoded_is_decoded_and_every_shorter_prefix_is_refused() {
    for seed in 1..=2_000 {
        let mut random = Random(seed * 0x9E37_79B9);
        let frontier = frontier(&mut random);
        let bytes = encoded(&frontier);
        assert_eq!(Frontier::decode(&bytes), Ok(Tainted::new(frontier)), "seed {seed}");
        for cut in 0..bytes.len() {
            let error = Frontier::decode(&bytes[..cut]).unwrap_err();
            let cut_short =
                matches!(error, DecodeError::Truncated { .. } | DecodeError::Count { .. });
            assert!(cut_short, "seed {seed}, cut at {cut}: {error}");
        }
    }
}

/// What is accepted re-encodes to itself: there is one encoding of each value.
fn accepts_only_canonical(bytes: &[u8]) -> bool {
    let Ok((claim, length)) = Frontier::decode_prefix(bytes) else {
        assert!(Frontier::decode(bytes).is_err(), "{bytes:?}");
        return false;
    };
    let mut again = Vec::new();
    claim.encode(&mut again);
    assert_eq!(again, bytes[..length], "{bytes:?}");
    let axes: Vec<Axis> = claim.iter().map(|(axis, _)| axis).collect();
    assert!(axes.is_sorted_by(|a, b| a < b), "{bytes:?}");
    assert!(claim.iter().all(|(_, epoch)| epoch > 0), "{bytes:?}");
    assert_eq!(Frontier::decode(bytes).is_ok(), length == bytes.len());
    true
}

#[test]
fn fuzz_random_bytes() {
    let mut random = Random(0x5EED);
    let mut accepted = 0;
    for _ in 0..100_000 {
        let length = random.below(40) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        // Most would end at the version or the count; let three in four go past them.
        if random.below(4) > 0 && length >= 2 {
            bytes[0] = 1;
            bytes[1] = random.below(length as u64) as u8;
        }
        accepted += u32::from(accepts_only_canonical(&bytes));
    }
    assert!(accepted > 1_000, "only {accepted} accepted: the decoder's depth is not reached");
}

#[test]
fn fuzz_mutated_encodings() {
    let mut random = Random(0xF00D);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..100_000 {
        let mut bytes = encoded(&frontier(&mut random));
        for _ in 0..=random.below(3) {
            mutate(&mut bytes, &mut random);
        }
        let counter = if accepts_only_canonical(&bytes) { &mut accepted } else { &mut refused };
        *counter += 1;
    }
    assert!(accepted > 1_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() as u64 + 1) as usize;
    match random.below(4) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => drop(bytes.remove(at)),
        2 => bytes.truncate(at),
        _ => bytes.insert(at, [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize]),
    }
}
