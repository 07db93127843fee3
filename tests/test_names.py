import pytest

from vitoolkit.views.names import plain


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (r"$\beta_{1}$", "β₁"),
        (r"$\beta_1$", "β₁"),
        (r"$\lambda$", "λ"),
        (r"$\Sigma_{ij}$", "Σᵢⱼ"),
        (r"$x_{i,j}$", "x_i,j"),
        (r"$\sigma^{2}_{\mathrm{obs}}$", "σ²_obs"),
        (r"$\sigma_{x_{obs}}$", "σ_x_obs"),
        (r"$w^T$", "wᵀ"),
        (r"$\hat{\theta}_0$", "θ̂₀"),
        (r"$\bar x$", "x̄"),
        (r"\mu_{0}", "μ₀"),
        (r"\(\mu\) of group", "μ of group"),
        (r"rate $\eta$", "rate η"),
        (r"$\alpha_{\beta}$", "αᵦ"),
        ("beta_1", "beta_1"),
        ("a::b_c[0]", "a::b_c[0]"),
        ("θ_μ", "θ_μ"),
        ("price_$", "price_＄"),
        (r"$\frac{a}{b}$", "a/b"),
        ("$$", "＄＄"),
        ("", ""),
    ],
)
def test_a_name_is_plain_text(name, words):
    assert plain(name) == words
    assert "$" not in plain(name)


@pytest.mark.parametrize("letter", ["alpha", "Gamma", "epsilon", "psi", "Omega", "lambda"])
def test_greek_letters_are_those_of_the_alphabet(letter):
    import unicodedata

    case = "CAPITAL" if letter[0].isupper() else "SMALL"
    name = unicodedata.name(plain(rf"$\{letter}$"))
    assert name == f"GREEK {case} LETTER {letter.upper().replace('LAMBDA', 'LAMDA')}"
