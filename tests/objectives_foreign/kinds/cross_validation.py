"""scikit-learn with n_jobs and an estimator of the file's own, which its processes must find again."""

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score


class MyEstimator(ClassifierMixin, BaseEstimator):
    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y):
        self.model_ = LogisticRegression(C=self.C, max_iter=200).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X):
        return self.model_.predict(X)


def objective(trial):
    X, y = load_iris(return_X_y=True)
    model = MyEstimator(C=trial.suggest_float("C", 1e-3, 10.0, log=True))
    return cross_val_score(model, X, y, cv=3, n_jobs=2).mean()
