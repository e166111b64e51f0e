//! Makes and reads certificates.

use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use yasna::{ASN1Result, BERReader, Tag};

use super::{Pair, Validity};

/// Clocks may be behind by this much.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
const NAME: &str = "netwright webhook authority";

/// A self-signed authority.
pub fn authority(now: Timestamp, until: Timestamp) -> anyhow::Result<Pair> {
    let key = KeyPair::generate()?;
    let certificate = authority_params(now, until).self_signed(&key)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// A server's certificate for these names by that authority.
pub fn serving(by: &Pair, names: &[String], now: Timestamp, until: Timestamp) -> anyhow::Result<Pair> {
    // of an authority only its name and key go into what it signs
    let issuer = Issuer::new(authority_params(now, until), KeyPair::from_pem(&by.key)?);
    let mut params = CertificateParams::new(names)?;
    dated(&mut params, now, until);
    params.distinguished_name = named(names.first().map_or(NAME, String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok(Pair {
        certificate: params.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

fn authority_params(now: Timestamp, until: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    dated(&mut params, now, until);
    params.distinguished_name = named(NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    // 64 bytes is the most that X.520 allows
    all.push(DnType::CommonName, name.get(..64).unwrap_or(name));
    all
}

fn dated(params: &mut CertificateParams, now: Timestamp, until: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |at: Timestamp| std::time::Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    params.not_before = epoch + since(now - BACKDATED);
    params.not_after = epoch + since(until);
}

/// The certificates of a bundle, one PEM block each.
pub fn blocks(bundle: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let whole = bundle
        .split_inclusive(END)
        .filter(|b| b.contains("BEGIN CERTIFICATE") && b.ends_with(END));
    whole.map(|block| format!("{}\n", block.trim())).collect()
}

/// When the first certificate of a PEM text holds.
pub fn validity(pem: &str) -> anyhow::Result<Validity> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).context("not a certificate in PEM")?;
    let (from, until) = dates(&der).map_err(|e| anyhow::anyhow!("not a certificate: {e}"))?;
    Ok(Validity {
        made: Timestamp::from_second(from)? + BACKDATED,
        until: Timestamp::from_second(until)?,
    })
}

/// RFC 5280, 4.1: both ends, in seconds.
fn dates(der: &[u8]) -> ASN1Result<(i64, i64)> {
    yasna::parse_der(der, |certificate| {
        certificate.read_sequence(|parts| {
            let dates = parts.next().read_sequence(|tbs| {
                tbs.read_optional(|version| version.read_tagged(Tag::context(0), |r| r.read_der()))?;
                for _ in ["serial number", "signature", "issuer"] {
                    tbs.next().read_der()?;
                }
                let dates = tbs.next().read_sequence(|v| Ok((time(v.next())?, time(v.next())?)))?;
                for _ in ["subject", "public key"] {
                    tbs.next().read_der()?;
                }
                tbs.read_optional(|extensions| extensions.read_tagged(Tag::context(3), |r| r.read_der()))?;
                Ok(dates)
            })?;
            for _ in ["algorithm", "signature"] {
                parts.next().read_der()?;
            }
            Ok(dates)
        })
    })
}

fn time(reader: BERReader) -> ASN1Result<i64> {
    match reader.lookahead_tag()? {
        yasna::tags::TAG_UTCTIME => Ok(reader.read_utctime()?.datetime().unix_timestamp()),
        _ => Ok(reader.read_generalized_time()?.datetime().unix_timestamp()),
    }
}

/// Whether certificate and key belong together.
pub fn matches(pair: &Pair) -> anyhow::Result<()> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    rustls::sign::CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?;
    Ok(())
}

/// Whether whoever trusts the bundle takes this pair for a server of these names, now.
pub fn sound(pair: &Pair, bundle: &str, names: &[String], now: Timestamp) -> anyhow::Result<()> {
    let chain: Vec<CertificateDer> =
        CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let Some((leaf, more)) = chain.split_first() else {
        bail!("there is no certificate");
    };
    matches(pair)?;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root?)?;
    }
    let leaf = rustls::server::ParsedCertificate::try_from(leaf)?;
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &leaf,
        &roots,
        more,
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .all,
    )?;
    for name in names {
        rustls::client::verify_server_name(&leaf, &ServerName::try_from(name.as_str())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn names(name: &str) -> Vec<String> {
        vec![name.to_owned(), format!("{name}.cluster.local")]
    }

    #[test]
    fn an_apiserver_that_trusts_the_bundle_takes_the_certificate() {
        let (old, new) = (authority(at(0), at(500)).unwrap(), authority(at(400), at(900)).unwrap());
        let ours = names("netwright-webhook.nmstate.svc");
        let pair = serving(&old, &ours, at(0), at(450)).unwrap();
        let bundle = format!("{}{}", new.certificate, old.certificate);
        sound(&pair, &bundle, &ours, at(1)).unwrap();
        sound(&pair, &bundle, &ours, at(-3000)).unwrap();
        let fault = |pair: &Pair, bundle: &str, names: &[String], now| sound(pair, bundle, names, now).unwrap_err();
        fault(&pair, &bundle, &ours, at(451));
        fault(&pair, &new.certificate, &ours, at(1));
        fault(&pair, &bundle, &names("other.nmstate.svc"), at(1));
        let mixed = Pair {
            key: new.key.clone(),
            ..pair.clone()
        };
        fault(&mixed, &bundle, &ours, at(1));
        let next = serving(&new, &ours, at(460), at(700)).unwrap();
        sound(&next, &bundle, &ours, at(461)).unwrap();
    }

    #[test]
    fn dates_are_read_back() {
        let made = authority(at(0), at(77)).unwrap();
        let read = validity(&made.certificate).unwrap();
        assert_eq!((read.made, read.until), (at(0), at(77)));
        // past 2049 certificates have another form of dates (RFC 5280, 4.1.2.5)
        let far = Timestamp::from_second(4_000_000_000).unwrap();
        assert_eq!(
            validity(&authority(at(0), far).unwrap().certificate).unwrap().until,
            far
        );
        assert!(validity("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
        assert!(validity("").is_err());
    }

    #[test]
    fn a_bundle_comes_apart() {
        let (a, b) = (authority(at(0), at(9)).unwrap(), authority(at(0), at(9)).unwrap());
        let both = format!("{}{}", a.certificate, b.certificate);
        let apart = blocks(&both);
        assert_eq!(apart.len(), 2);
        assert_eq!(validity(&apart[1]).unwrap().until, at(9));
        assert_eq!(blocks("nothing"), Vec::<String>::new());
    }
}
