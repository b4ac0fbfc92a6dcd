"""The two templates of a report; they say the same."""

from html import unescape

_STYLE = """
:root { --ink: #1d2329; --soft: #5c6670; --line: #dfe3e8; --back: #ffffff; --panel: #f5f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--soft); margin: 0 0 .25rem; }
.headline { font-size: 1.8rem; line-height: 1.25; font-weight: 700; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.answer { border-left: 5px solid #9aa5b1; background: var(--panel); margin: 1rem 0 .75rem;
  padding: .65rem .9rem; border-radius: 0 6px 6px 0; }
.answer.gain { border-color: #00795a; } .answer.loss { border-color: #c4480a; }
.badge { display: inline-block; font-size: .75rem; font-weight: 700; padding: .05rem .5rem;
  border-radius: 1rem; background: #5c6670; color: #fff; margin-right: .4rem; white-space: nowrap; }
.badge.gain { background: #00795a; } .badge.loss { background: #c4480a; }
.warn { background: #fff4e5; border: 1px solid #f0c48a; border-radius: 6px; padding: .6rem .9rem;
  margin: 1rem 0; }
figure { margin: 1rem 0 1.5rem; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .35rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .35rem .7rem .35rem 0; vertical-align: top; font-variant-numeric: tabular-nums; }
td { border-bottom: 1px solid var(--line); }
table.numbers td, table.numbers th { white-space: nowrap; } td.wrap { overflow-wrap: anywhere; }
pre { background: var(--panel); padding: .75rem .9rem; border-radius: 6px; font-size: .8rem;
  line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .6rem 0; } details img { max-width: 100%; height: auto; }
summary { cursor: pointer; font-weight: 600; }
@media print { main { padding: 0; }
  details::details-content { display: block; content-visibility: visible; } }
"""

_TABLE = """
{% macro table(data) %}
<div class="scroll"><table class="numbers">
<thead><tr>{% for h in data.header %}<th>{{ h }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in data.rows %}<tr>{% for c in row %}<td>
{%- if data.badge is defined and loop.last %}<span class="badge {{ c.split()[0] }}">{{ c }}</span>
{%- else %}{{ c }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endmacro %}
"""

_FIGURE = """
{% macro figure(picture) %}
<figure><img src="{{ picture.uri }}" alt="{{ picture.caption }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endmacro %}
"""

_READING = """Dice is the mean of the labels over the test cases, averaged over the seeds, in percent.
Differences are paired by case, and the means beside them are those of the pairs: where a label is not there
and one of the two rightly predicts nothing, that counts 1 against a false alarm of the other; where both
do, there is no pair (&ldquo;both empty&rdquo;: cases with such a label). All other means leave out what is
rightly empty. Intervals: 95 %, {{ bootstrap }}, each of its own; p: Wilcoxon signed-rank test, two-sided,
of the groups' means where cases are grouped (frames of a patient are not independent), corrected for the
number of answers above (Holm). The mean and the test can disagree: a few cases may gain much while most
lose a little. A gain or a loss is claimed only if the interval leaves out 0, p &lt; 0.05, the ranks of the
test point the same way and no seed speaks against it. &ldquo;Of the gap&rdquo;: difference over what all
labels would give on the same pairs, where that is known to be more than nothing. Intervals and tests speak
of the test cases, not of other choices of labelled cases: compare the seeds for that. Distances are means
over the cases where both masks exist; &ldquo;missed&rdquo; counts the structures without any predicted
voxel, which have no distance, &ldquo;false alarms&rdquo; those predicted where there are none."""

_CASES = """The axial slice with most reference; filled: prediction, outline: reference. The numbers are the
Dice of the whole case. Predictions of the first seed."""

_WATCHING = """For watching only: no result was chosen by these curves. The online validation sees random
patches."""

_HIDDEN = """The Dice of the pseudo-labels was computed with labels that the split hides
(monitor_hidden_labels=true). Training did not see them."""

_PSEUDO = (
    "pseudo-labels: the supervised model predicts the unlabelled cases, and a second training of the same "
    "length takes its predictions for labels; it therefore has twice the updates in all."
)

HTML = (
    _TABLE
    + _FIGURE
    + """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{{ settings.dataset }}: do unlabelled scans help?</title><style>"""
    + _STYLE
    + """</style></head><body><main>
<h1>Do unlabelled scans help? {{ settings.dataset }}, {{ settings.configuration }}</h1>
<p class="headline">{{ headline }}</p>
{% for a in answers %}
<p class="answer {{ a.rows[0][-1].split()[0] }}">{{ a.text }}</p>
{{ table(a) }}
{% endfor %}
{% for note in headroom %}
<p class="warn">{{ note }}</p>
{% endfor %}
{% if difference %}
{{ figure(difference) }}
{% endif %}
<p class="soft">{{ state }}</p>
{% if failed %}
<div class="warn"><strong>Failed runs</strong>
{% for run, text in failed.items() %}
<details><summary>{{ run }}</summary><pre>{{ text }}</pre></details>
{% endfor %}
</div>
{% endif %}
{% if missing %}
<details><summary>Runs to do: {{ missing | length }}</summary><pre>{{ missing | join("\\n") }}</pre></details>
{% endif %}
<h2>How many labels?</h2>
{{ figure(efficiency) }}
<h2>All numbers</h2>
{{ table(dice_rows) }}
<p class="soft">"""
    + _READING
    + """{% if pseudo_labels %} """
    + _PSEUDO
    + """{% endif %}</p>
{% if label_rows %}
<details><summary>Dice of each label</summary>{{ table(label_rows) }}</details>
{% endif %}
{% if cases %}
<h2>Worst and median cases</h2>
{% for picture in cases %}
{{ figure(picture) }}
{% endfor %}
<p class="soft">"""
    + _CASES
    + """</p>
{% endif %}
{% if unseen %}
<p class="soft">Cases without a picture: {{ unseen | join("; ") }}</p>
{% endif %}
{% if training %}
<h2>What happened in training</h2>
<p class="soft">"""
    + _WATCHING
    + """{% if hidden_labels %} """
    + _HIDDEN
    + """{% endif %}</p>
{% for run, texts in warnings.items() %}
<p class="warn">{{ run }}: the pseudo-labels may have collapsed. {{ texts | join(" ") }}</p>
{% endfor %}
{% if watching %}
{{ figure(watching) }}
{% endif %}
{% for picture in training %}
<details><summary>{{ picture.caption }}</summary>
<img src="{{ picture.uri }}" alt="{{ picture.caption }}"></details>
{% endfor %}
{% endif %}
<h2>To repeat this</h2>
<div class="scroll"><table><tbody>
{% for name, value in facts %}
<tr><th>{{ name }}</th><td class="wrap">{{ value }}</td></tr>
{% endfor %}
</tbody></table></div>
<pre>{{ command }}</pre>
{% if options %}
<details><summary>Options of every method</summary><table><tbody>
{% for name, value in options %}
<tr><th>{{ name }}</th><td class="wrap">{{ value }}</td></tr>
{% endfor %}
</tbody></table></details>
{% endif %}
<details><summary>Test cases and splits</summary>
{% for part in tests %}
<p><strong>Test cases{% if tests | length > 1 %}, part {{ loop.index0 }}{% endif %}:</strong>
{{ part | join(", ") }}</p>
{% endfor %}
{% for f in folds %}
<p><strong>Fold {{ f.fold }} ({{ f.labels }}, seed {{ f.seed }}
{%- if tests | length > 1 %}, part {{ f.part }}{% endif %}):</strong>
labelled {{ f.train | join(", ") }}; online validation {{ f.val | join(", ") }};
unlabelled {{ f.unlabeled | join(", ") or "none" }}</p>
{% endfor %}
</details>
<details><summary>Commands</summary>
<pre>{{ exports | join("\\n") }}</pre>
{% for run, lines in commands.items() %}
<p><strong>{{ run }}</strong></p><pre>{{ lines | join("\\n") }}</pre>
{% endfor %}
</details>
</main></body></html>
"""
)

MARKDOWN = (
    """{% macro table(data) %}
| {{ data.header | map("cell") | join(" | ") }} |
|{{ "---|" * (data.header | length) }}
{% for row in data.rows %}
| {{ row | map("cell") | join(" | ") }} |
{% endfor %}
{% endmacro %}
# Do unlabelled scans help? {{ settings.dataset }}, {{ settings.configuration }}

**{{ headline }}**

{% for a in answers %}
{{ a.text }}

{{ table(a) }}

{% endfor %}

{% for note in headroom %}
{{ note }}

{% endfor %}
{% if difference %}
![{{ difference.caption }}](pictures/{{ difference.file }})

{% endif %}
{{ state }}

{% for run, text in failed.items() %}
Failed: {{ run }}

```
{{ text }}
```

{% endfor %}
{% if missing %}
To do: {{ missing | join(", ") }}

{% endif %}
![{{ efficiency.caption }}](pictures/{{ efficiency.file }})

## All numbers

{{ table(dice_rows) }}

"""
    + unescape(_READING)
    + """{% if pseudo_labels %} """
    + _PSEUDO
    + """{% endif %}


{% if label_rows %}
### Dice of each label

{{ table(label_rows) }}

{% endif %}
{% if cases %}
## Worst and median cases

{% for picture in cases %}
![{{ picture.caption }}](pictures/{{ picture.file }})

{{ picture.caption }}

{% endfor %}
"""
    + _CASES
    + """

{% endif %}
{% if unseen %}
Cases without a picture: {{ unseen | join("; ") }}

{% endif %}
{% if training %}
## What happened in training

{% for run, texts in warnings.items() %}
{{ run }}: the pseudo-labels may have collapsed. {{ texts | join(" ") }}

{% endfor %}
{% for picture in ([watching] if watching else []) + training %}
![{{ picture.caption }}](pictures/{{ picture.file }})

{{ picture.caption }}

{% endfor %}
"""
    + _WATCHING
    + """{% if hidden_labels %} """
    + _HIDDEN
    + """{% endif %}


{% endif %}
## To repeat this

| | |
|---|---|
{% for name, value in facts %}
| {{ name }} | {{ value | cell }} |
{% endfor %}

```
{{ command }}
```

{% if options %}
| method | options |
|---|---|
{% for name, value in options %}
| {{ name }} | {{ value | cell }} |
{% endfor %}

{% endif %}
{% for part in tests %}
Test cases{% if tests | length > 1 %}, part {{ loop.index0 }}{% endif %}: {{ part | join(", ") }}

{% endfor %}
| fold | labels | seed | part | labelled | online validation | unlabelled |
|---|---|---|---|---|---|---|
{% for f in folds %}
| {{ f.fold }} | {{ f.labels }} | {{ f.seed }} | {{ f.part }} | {{ f.train | join(", ") }} |
{%- for cases in (f.val, f.unlabeled) %} {{ cases | join(", ") }} |{% endfor %}

{% endfor %}

```
{{ exports | join("\\n") }}
{% for run, lines in commands.items() %}

# {{ run }}
{{ lines | join("\\n") }}
{% endfor %}
```
"""
)
