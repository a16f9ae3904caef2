// What alerts say of series: Prometheus' own reader of rule files, its engine and its templates, on
// series that stand in the question in place of a database.
//
// One question on standard input, one answer on standard output, both JSON. promtool does more and
// takes six times as long to compile.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/template"
	"github.com/prometheus/prometheus/util/annotations"
)

// What a rule's words may begin with, as Prometheus itself puts it in front of them.
const shorthands = "{{$labels := .Labels}}{{$value := .Value}}"

type question struct {
	// A rule file: groups of rules. A field that Prometheus does not know is an error.
	Rules string `json:"rules"`
	// Expressions to be read beside those of the rules.
	Expressions []string `json:"expressions"`
	// Series with their values, `name{label="value"} 0+1x30`, one value a step.
	Series []string `json:"series"`
	// Seconds of a step, and how many there are.
	StepSeconds int `json:"step_s"`
	Steps       int `json:"steps"`
}

type answer struct {
	Read   []reading `json:"read"`
	Firing []firing  `json:"firing"`
}

// What an expression asks of series.
type reading struct {
	Expression string              `json:"expression"`
	Selected   map[string][]string `json:"selected"`
	Grouped    []string            `json:"grouped"`
}

// An alert that has come to fire.
type firing struct {
	Alert       string            `json:"alert"`
	AtSeconds   int               `json:"at_s"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fail(err)
	}
	said, err := respond(context.Background(), asked)
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func respond(ctx context.Context, asked question) (*answer, error) {
	said := &answer{Read: []reading{}, Firing: []firing{}}
	groups, errs := rulefmt.Parse([]byte(asked.Rules), false, model.UTF8Validation)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	expressions := slices.Clone(asked.Expressions)
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			expressions = append(expressions, rule.Expr)
		}
	}
	for _, expression := range expressions {
		read, err := read(expression)
		if err != nil {
			return nil, err
		}
		said.Read = append(said.Read, *read)
	}
	series, err := parseSeries(asked)
	if err != nil {
		return nil, err
	}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			found, err := evaluate(ctx, rule, series, asked)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", rule.Alert, err)
			}
			said.Firing = append(said.Firing, found...)
		}
	}
	return said, nil
}

func read(expression string) (*reading, error) {
	parsed, err := parser.ParseExpr(expression)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expression, err)
	}
	found := &reading{Expression: expression, Selected: map[string][]string{}, Grouped: []string{}}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		switch one := node.(type) {
		case *parser.VectorSelector:
			asked := found.Selected[one.Name]
			if asked == nil {
				asked = []string{}
			}
			for _, matcher := range one.LabelMatchers {
				if matcher.Name != model.MetricNameLabel {
					asked = append(asked, matcher.Name)
				}
			}
			found.Selected[one.Name] = asked
		case *parser.AggregateExpr:
			found.Grouped = append(found.Grouped, one.Grouping...)
		case *parser.BinaryExpr:
			if one.VectorMatching != nil {
				found.Grouped = append(found.Grouped, one.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	return found, nil
}

func parseSeries(asked question) ([]storage.Series, error) {
	var found []storage.Series
	for _, line := range asked.Series {
		metric, values, err := parser.ParseSeriesDesc(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		var points []promql.FPoint
		for step, value := range values {
			if !value.Omitted {
				at := int64(step*asked.StepSeconds) * 1000
				points = append(points, promql.FPoint{T: at, F: value.Value})
			}
		}
		found = append(found, promql.NewStorageSeries(promql.Series{Metric: metric, Floats: points}))
	}
	return found, nil
}

// evaluate returns each result of a rule that has stayed for as long as the rule asks, at the step
// at which it has.
func evaluate(
	ctx context.Context, rule rulefmt.Rule, series []storage.Series, asked question,
) ([]firing, error) {
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	defer engine.Close()
	var found []firing
	since := map[uint64]time.Time{}
	hasFired := map[uint64]bool{}
	for step := range asked.Steps {
		at := time.Unix(int64(step*asked.StepSeconds), 0)
		vector, err := query(ctx, engine, series, rule.Expr, at)
		if err != nil {
			return nil, err
		}
		present := map[uint64]time.Time{}
		for _, sample := range vector {
			key := sample.Metric.Hash()
			present[key] = at
			if began, ok := since[key]; ok {
				present[key] = began
			}
			if hasFired[key] || at.Sub(present[key]) < time.Duration(rule.For) {
				continue
			}
			hasFired[key] = true
			fired, err := describe(ctx, rule, sample, at)
			if err != nil {
				return nil, err
			}
			found = append(found, *fired)
		}
		since = present
	}
	return found, nil
}

func query(
	ctx context.Context, engine *promql.Engine, series []storage.Series, words string, at time.Time,
) (promql.Vector, error) {
	prepared, err := engine.NewInstantQuery(ctx, inMemory(series), nil, words, at)
	if err != nil {
		return nil, err
	}
	defer prepared.Close()
	vector, err := prepared.Exec(ctx).Vector()
	return slices.Clone(vector), err
}

func describe(
	ctx context.Context, rule rulefmt.Rule, sample promql.Sample, at time.Time,
) (*firing, error) {
	data := template.AlertTemplateData(sample.Metric.Map(), nil, "", sample)
	expand := func(text string) (string, error) {
		now := model.TimeFromUnix(at.Unix())
		return template.NewTemplateExpander(
			ctx, shorthands+text, rule.Alert, data, now, nil, nil, nil,
		).Expand()
	}
	fired := &firing{
		Alert:       rule.Alert,
		AtSeconds:   int(at.Unix()),
		Labels:      sample.Metric.DropMetricName().Map(),
		Annotations: map[string]string{},
	}
	for name, text := range rule.Labels {
		fired.Labels[name] = text
	}
	for name, text := range rule.Annotations {
		expanded, err := expand(text)
		if err != nil {
			return nil, err
		}
		fired.Annotations[name] = strings.TrimSpace(expanded)
	}
	return fired, nil
}

// inMemory answers queries from series that are there already.
func inMemory(series []storage.Series) storage.Queryable {
	querier := &storage.MockQuerier{
		SelectMockFunction: func(
			_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher,
		) storage.SeriesSet {
			set := &seriesSet{}
			for _, one := range series {
				if matches(one.Labels(), matchers) {
					set.rest = append(set.rest, one)
				}
			}
			return set
		},
	}
	return &storage.MockQueryable{MockQuerier: querier}
}

func matches(metric labels.Labels, matchers []*labels.Matcher) bool {
	return !slices.ContainsFunc(matchers, func(one *labels.Matcher) bool {
		return !one.Matches(metric.Get(one.Name))
	})
}

type seriesSet struct {
	now  storage.Series
	rest []storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.now, s.rest = s.rest[0], s.rest[1:]
	return true
}

func (s *seriesSet) At() storage.Series                { return s.now }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }
