//! The name in a caller's certificate: the one place that takes certificates apart.

use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Longest name, in characters.
const NAME_CHARS: usize = 200;

/// What the service is called whose certificate this is: the first URI of its subject alternative names, else the first DNS
/// name. The handshake has proven it already.
pub fn service_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let uri = certificate.valid_uri_names().next();
    let name = uri.or_else(|| certificate.valid_dns_names().next())?;
    let fits = !name.is_empty()
        && name.chars().count() <= NAME_CHARS
        && name.chars().all(|character| character.is_ascii_graphic());
    fits.then(|| name.to_owned())
}
