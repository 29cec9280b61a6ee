//! Certificates of our own, made anew for each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::place::{Account, run};

const NEW_KEY: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// Two authorities, and a certificate for `localhost` and `order-service` by each of them.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes them.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let all = Self { folder };
        for authority in ["right", "wrong"] {
            let subject = format!("/CN={authority} authority");
            let key = format!("{authority}.key");
            let certificate = format!("{authority}.crt");
            let extensions =
                ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"];
            all.openssl(&[
                &["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &certificate],
                NEW_KEY,
                &extensions,
            ])
            .await;
        }
        fs::write(
            all.path("names"),
            "subjectAltName = DNS:localhost, DNS:order-service\nbasicConstraints = critical, CA:FALSE\n",
        )
        .unwrap();
        for (name, authority) in [("server", "right"), ("stranger", "wrong")] {
            let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
            let subject = format!("/CN={name}");
            all.openssl(&[&["req", "-subj", &subject, "-keyout", &key, "-out", &request], NEW_KEY]).await;
            let (signer, signer_key) = (format!("{authority}.crt"), format!("{authority}.key"));
            let certificate = format!("{name}.crt");
            let signing =
                ["x509", "-req", "-days", "2", "-in", &request, "-CA", &signer, "-CAkey", &signer_key];
            all.openssl(&[&signing, &["-set_serial", "7", "-extfile", "names", "-out", &certificate]]).await;
        }
        all
    }

    async fn openssl(&self, arguments: &[&[&str]]) {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(self.folder.path()).args(arguments.concat());
        run(openssl).await;
    }

    /// Where a file is: `right.crt`, `server.crt` and `server.key` by it, `wrong.crt`, `stranger.crt` and `stranger.key`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives a server its certificate.
    pub fn install(&self, data: &Path) {
        for name in ["server.crt", "server.key"] {
            let place = data.join(name);
            fs::copy(self.path(name), &place).unwrap();
            fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            Account::get().own(&place);
        }
    }
}
