//! What is due, from the clock, the certificates that there are, and the wishes of the administrator. Pure.
//!
//! A new authority comes `ca_overlap` before the old one ends, and both are in the bundle until then. The serving certificate follows by its own clock,
//! when the apiserver has known the new authority for a while: so there is no moment at which it meets a certificate that it does not know.

use jiff::{SignedDuration, Timestamp};

use super::Validity;

/// How long certificates live, and how long before their end the next one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knobs {
    /// `selfSignConfiguration.caRotateInterval`
    pub ca_rotate: SignedDuration,
    /// `caOverlapInterval`
    pub ca_overlap: SignedDuration,
    /// `certRotateInterval`
    pub cert_rotate: SignedDuration,
    /// `certOverlapInterval`
    pub cert_overlap: SignedDuration,
}

/// Longest time that the apiserver may take to learn of a new authority before it meets one of its certificates.
const SETTLED: SignedDuration = SignedDuration::from_secs(60);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make a new authority.
    Authority,
    /// Make a serving certificate with the newest authority.
    Serving,
    /// Take authorities that have ended out of the bundle.
    Prune,
    /// Look again then.
    Wait(Timestamp),
}

impl Knobs {
    /// What stands where nothing is said, in the same order.
    pub const USUAL: [&str; 4] = ["8760h0m0s", "24h0m0s", "4380h0m0s", "24h0m0s"];

    /// Refuses what would never come to rest. The error names the flag.
    pub fn checked(mut self) -> Result<Self, String> {
        for (name, rotate, overlap) in [
            ("ca", self.ca_rotate, self.ca_overlap),
            ("cert", self.cert_rotate, self.cert_overlap),
        ] {
            if overlap.is_negative() || overlap.is_zero() || rotate / 2 < overlap {
                return Err(format!(
                    "--{name}-overlap-interval ({overlap:#}) must be more than nothing and at most half of --{name}-rotate-interval ({rotate:#})"
                ));
            }
        }
        // a certificate ends with its authority at the latest: the next authority must be there by then
        self.ca_overlap = self.ca_overlap.max(self.cert_overlap);
        if self.ca_rotate / 2 < self.ca_overlap {
            return Err("--cert-overlap-interval must be at most half of --ca-rotate-interval".to_owned());
        }
        Ok(self)
    }

    /// How long an authority is known to the apiserver before it is used.
    fn settled(&self) -> SignedDuration {
        SETTLED.min(self.cert_overlap / 2)
    }
}

/// Decides. `authorities` are those in the bundle, newest first; `serving` is None where the certificate cannot be used: missing, damaged, for other
/// names, or by an authority that is not in the bundle.
pub fn due(now: Timestamp, authorities: &[Validity], serving: Option<Validity>, knobs: &Knobs) -> Step {
    let Some(newest) = authorities.first() else {
        return Step::Authority;
    };
    let next_authority = newest.until - knobs.ca_overlap;
    if now >= next_authority {
        return Step::Authority;
    }
    let Some(serving) = serving.filter(|s| now < s.until) else {
        return Step::Serving;
    };
    // an authority that is newer than the certificate: wait until it is known
    let next_serving = (serving.until - knobs.cert_overlap).max(newest.made + knobs.settled());
    if now >= next_serving {
        return Step::Serving;
    }
    let ends = authorities.iter().skip(1).map(|a| a.until);
    if ends.clone().any(|end| end <= now) {
        return Step::Prune;
    }
    Step::Wait(ends.chain([next_authority, next_serving]).min().unwrap_or(next_serving))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn span(made: i64, until: i64) -> Validity {
        Validity {
            made: at(made),
            until: at(until),
        }
    }

    fn unchecked(all: [i64; 4]) -> Knobs {
        let [ca_rotate, ca_overlap, cert_rotate, cert_overlap] = all.map(SignedDuration::from_secs);
        Knobs {
            ca_rotate,
            ca_overlap,
            cert_rotate,
            cert_overlap,
        }
    }

    fn knobs(all: [i64; 4]) -> Knobs {
        unchecked(all).checked().unwrap()
    }

    fn usual() -> Knobs {
        knobs([365 * DAY, DAY, 182 * DAY, DAY])
    }

    #[test]
    fn what_is_missing_or_over_is_made_at_once() {
        let ca = span(0, 365 * DAY);
        assert_eq!(due(at(0), &[], None, &usual()), Step::Authority);
        assert_eq!(due(at(0), &[], Some(span(0, DAY)), &usual()), Step::Authority);
        assert_eq!(due(at(1), &[ca], None, &usual()), Step::Serving);
        assert_eq!(due(at(2 * DAY), &[ca], Some(span(0, DAY)), &usual()), Step::Serving);
        // the clock jumped over all of it
        assert_eq!(due(at(999 * DAY), &[ca], Some(span(0, DAY)), &usual()), Step::Authority);
    }

    #[test]
    fn nothing_is_due_before_an_overlap_begins() {
        let (ca, serving) = (span(0, 365 * DAY), span(0, 182 * DAY));
        assert_eq!(due(at(1), &[ca], Some(serving), &usual()), Step::Wait(at(181 * DAY)));
        assert_eq!(due(at(181 * DAY), &[ca], Some(serving), &usual()), Step::Serving);
        let second = span(181 * DAY, 363 * DAY);
        assert_eq!(
            due(at(182 * DAY), &[ca], Some(second), &usual()),
            Step::Wait(at(362 * DAY))
        );
        // a clock that is set back makes nothing new
        assert_eq!(due(at(-DAY), &[ca], Some(serving), &usual()), Step::Wait(at(181 * DAY)));
    }

    #[test]
    fn a_new_authority_is_known_before_it_is_used_and_the_old_one_goes_when_it_ends() {
        let (old, serving) = (span(0, 365 * DAY), span(183 * DAY, 365 * DAY));
        assert_eq!(due(at(364 * DAY), &[old], Some(serving), &usual()), Step::Authority);
        let new = span(364 * DAY, 729 * DAY);
        assert_eq!(
            due(at(364 * DAY), &[new, old], Some(serving), &usual()),
            Step::Wait(at(364 * DAY + 60))
        );
        assert_eq!(
            due(at(364 * DAY + 60), &[new, old], Some(serving), &usual()),
            Step::Serving
        );
        let next = span(364 * DAY + 60, 546 * DAY);
        assert_eq!(
            due(at(364 * DAY + 61), &[new, old], Some(next), &usual()),
            Step::Wait(at(365 * DAY))
        );
        assert_eq!(due(at(365 * DAY), &[new, old], Some(next), &usual()), Step::Prune);
    }

    /// Lives through many rotations: at each moment the certificate holds, and its authority has been in the bundle for a while.
    #[test]
    fn at_no_moment_is_there_a_certificate_that_is_not_known() {
        for all in [
            [100, 20, 50, 10],
            [100, 10, 90, 40],
            [60, 30, 300, 10],
            [1000, 1, 10, 5],
            [1000, 20, 2000, 20],
        ] {
            let knobs = knobs(all);
            let mut authorities: Vec<Validity> = vec![];
            let mut serving: Option<(Validity, Validity)> = None;
            let (mut now, mut steps) = (at(0), 0);
            while now < at(5_000) {
                steps += 1;
                assert!(steps < 20_000, "{all:?} never comes to rest");
                match due(now, &authorities, serving.map(|s| s.0), &knobs) {
                    Step::Authority => authorities.insert(
                        0,
                        Validity {
                            made: now,
                            until: now + knobs.ca_rotate,
                        },
                    ),
                    Step::Serving => {
                        let by = authorities[0];
                        let until = (now + knobs.cert_rotate).min(by.until);
                        let first = serving.is_none();
                        assert!(
                            first || now >= by.made + knobs.settled(),
                            "{all:?}: used too early at {now}"
                        );
                        serving = Some((Validity { made: now, until }, by));
                    }
                    Step::Prune => authorities.retain(|a| a.until > now),
                    Step::Wait(then) => {
                        assert!(then > now, "{all:?}");
                        let (held, by) = serving.expect("it serves");
                        assert!(
                            then <= held.until && authorities.contains(&by),
                            "{all:?}: a gap at {then}"
                        );
                        now = then;
                    }
                }
            }
        }
    }

    #[test]
    fn wishes_that_never_come_to_rest_are_refused() {
        let wish = |all| unchecked(all).checked().unwrap_err();
        assert!(wish([10, 6, 10, 1]).contains("--ca-overlap-interval (6s)"));
        assert!(wish([10, 1, 10, 0]).contains("--cert-overlap-interval"));
        assert!(wish([10, 1, 100, 20]).contains("--cert-overlap-interval"));
    }
}
